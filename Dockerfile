# headgate with its embedded log and its embedded PostgreSQL, in one container.
#
#   docker build -t headgate .
#   docker run --init --read-only --tmpfs /tmp -p 127.0.0.1:8000:8000 -v headgate-data:/data \
#       --stop-timeout 40 -e HEADGATE_API_KEYS=name=key headgate
#
# It listens on all addresses, so it starts only with credentials: a key of 16 characters or more.
# compose.yaml has it with engines of their own; edge/deploy/ has Kubernetes, systemd, Prometheus and Grafana.
#
# One process: the gateway, which starts and stops its engines itself. As PID 1 it answers signals, waits for its
# children, and takes what a PostgreSQL that was killed left behind; --init (tini) takes everything else, too.

FROM python:3.11-slim-bookworm AS builder
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY . .
# The wheel is what is tested and shipped: what it does not hold is not in the image. The environment has no pip.
RUN pip wheel --no-deps --wheel-dir /wheels . \
    && python -m venv --without-pip /opt/headgate \
    && pip --python /opt/headgate/bin/python install /wheels/*.whl

FROM python:3.11-slim-bookworm
# libnss-wrapper gives initdb a name to find where the container runs as an account without one (--user 12345).
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libnss-wrapper \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --no-log-init --uid 10001 --gid 0 --home-dir /data --no-create-home --shell /usr/sbin/nologin headgate \
    && install --directory --owner=10001 --group=0 --mode=0770 /data
COPY --from=builder /opt/headgate /opt/headgate
# Everywhere else headgate listens on loopback. A container's loopback reaches nobody, so its address is widened here,
# in sight, and what reaches it is decided by what is published.
ENV PATH=/opt/headgate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/data \
    HEADGATE_HOST=0.0.0.0 \
    HEADGATE_DATA=/data \
    PORT=8000
# By number, so that Kubernetes sees that it is not root. Any other number works too: an account without a name has
# the group 0, which /data lets in.
USER 10001:0
WORKDIR /data
VOLUME /data
EXPOSE 8000
# Ready means that what the log confirms is kept. Anything but 200 is unhealthy, and so is no answer.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-m", "edge.healthcheck"]
# It drains: HEADGATE_DRAIN_S for requests, then the stops of workers and engines. Give it 40 s (docker run --stop-timeout 40).
STOPSIGNAL SIGTERM
ENTRYPOINT ["headgate"]
CMD ["serve"]
