# In the place of python:3.12-slim: Debian's Python, with pip.
FROM cairn-debian
COPY pip /usr/lib/python3/dist-packages/pip
RUN ln -s python3 /usr/bin/python
