"""Whose figures and spans these are: the OpenTelemetry resource.

https://opentelemetry.io/docs/specs/semconv/resource/
"""

from __future__ import annotations

import functools
import os
import uuid

from opentelemetry.sdk.resources import Resource

DEFAULT_SERVICE_NAME = "flowrra"


@functools.cache
def resource() -> Resource:
    """This process: what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say, and what they leave open.

    The same for metrics and spans, so that they can be brought together by service.instance.id.
    """
    found = Resource.create()  # telemetry.sdk.*, and what the environment says
    attributes = dict(found.attributes)
    if str(attributes.get("service.name", "")).startswith("unknown_service"):  # the SDK's word for "not given"
        attributes["service.name"] = DEFAULT_SERVICE_NAME
    attributes.setdefault("service.instance.id", str(uuid.uuid4()))
    attributes.setdefault("process.pid", os.getpid())
    return Resource(attributes, found.schema_url)
