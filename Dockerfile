# One database in a volume, served with TLS as a user without rights. Make a token first:
#
#   docker build -t ducktower .
#   docker run --rm -v events:/data ducktower token create ada --role owner
#   docker run -p 8815:8815 -v events:/data --read-only --tmpfs /tmp --cap-drop ALL \
#       --security-opt no-new-privileges ducktower
#
# The second line prints the token, the third the fingerprint of the certificate that clients pin.
FROM python:3.13-slim AS build
WORKDIR /build
RUN python -m venv /opt/ducktower
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/ducktower/bin/pip install --no-cache-dir .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin ducktower \
    && install --directory --owner ducktower --group ducktower --mode 0700 /data
COPY --from=build /opt/ducktower /opt/ducktower
ENV DUCKTOWER_DATABASE=/data/main.duckdb \
    DUCKTOWER_HOST=0.0.0.0 \
    DUCKTOWER_TLS=auto \
    DUCKTOWER_HEALTH_PORT=8816
USER ducktower
WORKDIR /data
VOLUME /data
EXPOSE 8815
STOPSIGNAL SIGTERM
# Within the container alone: checks over HTTP know neither tokens nor TLS.
HEALTHCHECK --start-period=60s CMD ["/opt/ducktower/bin/python", "-c", \
    "import urllib.request as http; http.urlopen('http://127.0.0.1:8816/health/live')"]
ENTRYPOINT ["/opt/ducktower/bin/ducktower"]
CMD ["serve"]
