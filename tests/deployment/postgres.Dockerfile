# In the place of postgres: the server of the pgserver wheel, which is made and started as the official image does.
FROM cairn-debian
COPY postgres /usr/lib/postgresql
COPY libraries /usr/lib/postgresql/libraries
COPY postgres-entrypoint /usr/local/bin/docker-entrypoint
RUN echo 'postgres:x:999:999::/var/lib/postgresql:/bin/sh' >>/etc/passwd \
 && echo 'postgres:x:999:' >>/etc/group \
 && mkdir -p /var/lib/postgresql/data /var/run/postgresql \
 && chown -R 999:999 /var/lib/postgresql \
 && chmod 1777 /var/lib/postgresql/data /var/run/postgresql \
 && chmod 755 /usr/local/bin/docker-entrypoint
ENV PATH=/usr/lib/postgresql/bin:/usr/local/bin:/usr/bin:/bin LD_LIBRARY_PATH=/usr/lib/postgresql/libraries \
    PGDATA=/var/lib/postgresql/data
ENTRYPOINT ["docker-entrypoint"]
