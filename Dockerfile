# Vulcanized as a sidecar beside HAProxy, or with a HAProxy of its own (start = true).
#
#   docker build -t vulcanized .
#   docker run -v ./vulcanized.toml:/etc/vulcanized/vulcanized.toml:ro -p 80:8080 vulcanized

FROM python:3.13-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/vulcanized
# What the tests run with: every file pinned by its hash, also what the project is built with.
COPY .ci/requirements.lock .ci/requirements-build.lock .ci/
RUN /opt/vulcanized/bin/pip install --no-cache-dir --require-hashes --no-deps -r .ci/requirements.lock \
 && python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes --no-deps -r .ci/requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY vulcanized vulcanized
COPY templates templates
RUN /opt/build/bin/python -m hatchling build -t wheel -d /wheels \
 && /opt/vulcanized/bin/pip install --no-cache-dir --no-deps --no-index /wheels/*.whl

# Debian 12, for its HAProxy is the one that the tests run.
FROM python:3.13-slim-bookworm
# HAProxy checks every candidate before the running one is reloaded, also in another container.
RUN apt-get update \
 && apt-get install -y --no-install-recommends haproxy \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 64199 --home-dir /var/lib/vulcanized --create-home vulcanized \
 && mkdir -p /etc/vulcanized /etc/haproxy/vulcanized \
 && chown vulcanized: /etc/haproxy/vulcanized
COPY --from=build /opt/vulcanized /opt/vulcanized
ENV PATH=/opt/vulcanized/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    STATE_DIRECTORY=/var/lib/vulcanized
USER vulcanized
VOLUME ["/etc/haproxy/vulcanized", "/var/lib/vulcanized"]
EXPOSE 9642
STOPSIGNAL SIGTERM
# By the admin address of the settings, whatever it is; 1 means problems of apps, not of the daemon.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s \
  CMD vulcanized status > /dev/null; test $? -le 1
ENTRYPOINT ["vulcanized"]
CMD ["run"]
