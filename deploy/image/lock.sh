#!/bin/sh
# Writes the versions and hashes that the image is built from, for amd64 and arm64 alike; needs uv (pip install uv).
# No address of an index is written: the hashes hold for whichever index has these files.
set -eu
cd "$(dirname "$0")"
lock() {
    output=$1
    shift
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
        --no-emit-index-url --no-emit-find-links --upgrade --output-file "$output" "$@"
}
lock requirements.txt --extra exporter --extra redis --extra postgresql --extra mysql ../../pyproject.toml
lock build-requirements.txt build-requirements.in
