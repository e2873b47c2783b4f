# The exporter as an image: runs as a numeric user without privileges, on a read-only root file system.
#
#     docker build --tag flowrra-exporter .
#     docker run --rm --read-only --publish 9464:9464 --volume "$PWD/shop:/app/shop:ro" flowrra-exporter shop.tasks:app
#
# An app lives in /app, together with what it needs; README.md shows how to build an image with it.

ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
# An index of your own, if you have one: --build-arg PIP_INDEX_URL=...
ARG PIP_INDEX_URL
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY flowrra flowrra
COPY exporter exporter
# pip stays outside of the environment, which is copied as it is.
RUN python3 -m venv --without-pip /opt/flowrra \
    && python3 -m pip --python /opt/flowrra/bin/python3 install --no-cache-dir --disable-pip-version-check '.[all]'

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="flowrra-exporter" \
      org.opencontainers.image.description="Runs a Flowrra app, serves its metrics to Prometheus and its health to probes" \
      org.opencontainers.image.licenses="Apache-2.0"
# The base image brings pip; nothing is installed at run time.
RUN rm -rf /usr/local/lib/python3*/site-packages/pip* \
           /usr/local/lib/python3*/site-packages/setuptools* \
           /usr/local/lib/python3*/site-packages/wheel* \
           /usr/local/lib/python3*/ensurepip \
           /usr/local/bin/pip* /usr/local/bin/wheel
COPY --from=build /opt/flowrra /opt/flowrra
ENV PATH=/opt/flowrra/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
USER 65532:65532
EXPOSE 9464
# SIGTERM drains the app. The orchestrator probes it at /livez, /readyz and /startupz.
ENTRYPOINT ["flowrra-exporter"]
