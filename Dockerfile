# headgate with its embedded log, in one container.
#
#   docker build -t headgate .
#   docker run --init -p 127.0.0.1:8000:8000 -v headgate-data:/data -e HEADGATE_API_KEYS=name=key headgate
#
# It listens on all addresses, so it starts only with credentials: a key of 16 characters or more.
#
# One process: the gateway, which starts and stops its nats-server itself. --init (tini) is there for PID 1's other
# duty, reaping what the gateway's children left behind; the gateway waits for its own children in any case.

FROM python:3.11-slim AS builder
RUN python -m venv /opt/headgate
WORKDIR /src
COPY . .
RUN /opt/headgate/bin/pip install --no-cache-dir --disable-pip-version-check .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin headgate \
    && install --directory --owner=headgate --group=headgate --mode=0700 /data
COPY --from=builder /opt/headgate /opt/headgate
# Everywhere else headgate listens on loopback. A container's loopback reaches nobody, so its address is widened here,
# in sight, and what reaches it is decided by what is published.
ENV PATH=/opt/headgate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HEADGATE_HOST=0.0.0.0 \
    HEADGATE_DATA=/data \
    PORT=8000
USER headgate
WORKDIR /data
VOLUME /data
EXPOSE 8000
# Ready means that what the log confirms is kept. A 503 raises, and that is the unhealthy exit code.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/readyz', timeout=2)"]
# SIGTERM, which docker stop sends, drains: give it longer than HEADGATE_DRAIN_S (docker stop --time 20).
ENTRYPOINT ["headgate"]
CMD ["serve"]
