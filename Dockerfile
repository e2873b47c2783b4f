# The exporter as an image: runs as a numeric user without privileges, on a read-only root file system.
#
#     docker build --tag flowrra-exporter .
#     docker run --rm --read-only --publish 9464:9464 --volume "$PWD/shop:/app/shop:ro" flowrra-exporter shop.tasks:app
#
# For both architectures: docker buildx build --platform linux/amd64,linux/arm64 .
# An app lives in /app, together with what it needs; README.md shows how to build an image with it.
#
# The same sources and the same base give the same files: versions and hashes are those of deploy/image/requirements.txt,
# and compiled files have no times. Give SOURCE_DATE_EPOCH to the builder for the layers' own.

ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
# An index of your own, if you have one: --build-arg PIP_INDEX_URL=...
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY deploy/image/requirements.txt deploy/image/build-requirements.txt deploy/image/
# pip stays outside of the environment, which is copied as it is.
RUN python3 -m venv --without-pip /opt/flowrra \
    && python3 -m venv --without-pip /opt/build \
    && python3 -m pip --python /opt/flowrra/bin/python3 install --no-cache-dir --no-compile --require-hashes \
        --requirement deploy/image/requirements.txt \
    && python3 -m pip --python /opt/build/bin/python3 install --no-cache-dir --require-hashes \
        --requirement deploy/image/build-requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY flowrra flowrra
COPY exporter exporter
COPY deploy/image/sbom.py deploy/image/
# Sources of compiled modules and tests of other packages are of no use in a container.
RUN /opt/build/bin/python3 -m hatchling build --target wheel --directory /tmp/wheel \
    && python3 -m pip --python /opt/flowrra/bin/python3 install --no-cache-dir --no-compile --no-deps --no-index /tmp/wheel/*.whl \
    && find /opt/flowrra/lib \( -name tests -o -name '*.pyi' -o -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' \) \
        -prune -exec rm -rf {} + \
    && /opt/flowrra/bin/python3 deploy/image/sbom.py > /opt/flowrra/sbom.cdx.json \
    && /opt/flowrra/bin/python3 -m compileall -q -f --invalidation-mode=unchecked-hash /opt/flowrra/lib

FROM ${BASE_IMAGE}
ARG BASE_IMAGE
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="flowrra-exporter" \
      org.opencontainers.image.description="Runs a Flowrra app, serves its metrics to Prometheus and its health to probes" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
# What is inside, as CycloneDX: /opt/flowrra/sbom.cdx.json
COPY --from=build /opt/flowrra /opt/flowrra
# PIP_PYTHON has the base's pip install into the environment that the command runs in.
ENV PATH=/opt/flowrra/bin:$PATH \
    PIP_PYTHON=/opt/flowrra/bin/python3 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
USER 65532:65532
EXPOSE 9464
# SIGTERM drains the app. Orchestrators probe it at /livez, /readyz and /startupz; for engines without probes:
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "-m", "flowrra_exporter.healthcheck"]
ENTRYPOINT ["flowrra-exporter"]
