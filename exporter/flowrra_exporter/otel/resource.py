"""Whose figures and spans these are: the OpenTelemetry resource, and since when the process counts.

https://opentelemetry.io/docs/specs/semconv/resource/
"""

from __future__ import annotations

import functools
import os
import time
import uuid
from pathlib import Path

from opentelemetry.sdk.resources import Resource

DEFAULT_SERVICE_NAME = "flowrra"
_IMPORTED_AT = time.time()
_START_FIELD = 19  # of what follows the program's name in /proc/self/stat, see proc(5)


def resource() -> Resource:
    """This process: what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say, and what they leave open.

    The same for metrics and spans, so that they can be brought together by service.instance.id; another one in a child
    that was forked since.
    """
    return _resource_of(os.getpid())


@functools.lru_cache(1)
def _resource_of(pid: int) -> Resource:
    found = Resource.create()  # telemetry.sdk.*, and what the environment says
    attributes = dict(found.attributes)
    if str(attributes.get("service.name", "")).startswith("unknown_service"):  # the SDK's word for "not given"
        attributes["service.name"] = DEFAULT_SERVICE_NAME
    attributes.setdefault("service.instance.id", str(uuid.uuid4()))
    attributes.setdefault("process.pid", pid)
    return Resource(attributes, found.schema_url)


def started_at() -> float:
    """The process's start as a Unix time in seconds; without a /proc, when this module was imported."""
    try:
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return _booted_at() + int(after_name[_START_FIELD]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return _IMPORTED_AT


def _booted_at() -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    raise ValueError("/proc/stat has no btime")
