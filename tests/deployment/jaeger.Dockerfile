# In the place of jaegertracing/jaeger: the same program, built from its Go module, without the pages of its UI.
FROM scratch
COPY jaeger /jaeger
ENTRYPOINT ["/jaeger"]
