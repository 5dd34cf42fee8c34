# In the place of nats:alpine: the server of its wheel.
FROM cairn-debian
COPY nats-server /usr/local/bin/nats-server
ENTRYPOINT ["nats-server"]
