# In the place of docker:cli: the client and Compose of the machine that builds it.
FROM scratch
COPY docker /usr/local/bin/docker
COPY docker-compose /usr/local/libexec/docker/cli-plugins/docker-compose
