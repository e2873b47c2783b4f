"""The OpenAPI 3.1 document of the JSON API."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

from flowrra_exporter._version import __version__
from flowrra_exporter.app.management import Management
from flowrra_exporter.paths import API, EVENTS
from flowrra_exporter.web.actions import ACTIONS_BY_NAME, Action
from flowrra_exporter.web.api.endpoints import ENDPOINTS, Endpoint
from flowrra_exporter.web.api.events import PARAMETERS
from flowrra_exporter.web.api.schemas import Schema, Schemas
from flowrra_exporter.web.parameters import EVENT_ID, ID, Parameter

# What answers leave out of these types for clients that may not see task data.
_HIDDEN: Mapping[str, frozenset[str]] = {
    "ListedTask": frozenset(("args", "kwargs", "result", "error")),
    "TaskDetails": frozenset(("args", "kwargs", "result", "error", "traceback")),
    "TaskAttempt": frozenset(("error", "traceback")),
    "TaskProgress": frozenset(("message",)),
    "WatchedTask": frozenset(("error",)),
    "DeadTask": frozenset(("args", "kwargs")),
    "ScheduleDetails": frozenset(("args", "kwargs")),
    "ScheduleRun": frozenset(("error",)),
    "Stall": frozenset(("stack",)),
}
_PROBLEM: Schema = {
    "type": "object",
    "description": "What is wrong, as RFC 9457 has it.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, for people."},
        "parameter": {"type": "string", "description": "The parameter that is meant, if one is."},
    },
    "required": ["type", "title", "status", "detail"],
}
_MOMENT: Schema = {"type": ["string", "null"], "format": "date-time"}
_FAILURE: Schema = {
    "type": "object",
    "properties": {
        "task_id": {"type": "string"},
        "task_name": {"type": "string"},
        "submitted_at": _MOMENT,
        "started_at": _MOMENT,
        "finished_at": _MOMENT,
        "retries": {"type": ["integer", "null"]},
        "error": {"type": "string", "description": "Left out for clients that may not see task data."},
        "arguments": {"type": "string", "description": "Left out for clients that may not see task data."},
    },
    "required": ["task_id", "task_name", "submitted_at", "started_at", "finished_at", "retries"],
}
_FAILURES: Schema = {
    "type": "object",
    "properties": {"as_of": _MOMENT, "failures": {"type": "array", "items": _FAILURE}},
    "required": ["as_of", "failures"],
}
_DONE: Schema = {
    "type": "object",
    "properties": {
        "action": {"type": "string"},
        "changed": {"type": "boolean", "description": "False if there was nothing to do."},
        "message": {"type": "string", "description": "What became of it, for people."},
        "result": {"description": "What the method of the Management API answered."},
    },
    "required": ["action", "changed", "message", "result"],
}
_TOKEN: Schema = {
    "type": "object",
    "properties": {
        "token": {"type": "string"},
        "expires_in": {"type": "number", "description": "Seconds."},
    },
    "required": ["token", "expires_in"],
}
_WATCH = "watch"
# What an observer answers has parts of what the manager does.
_OBSERVED = ("get_stats", "health_check")
_ERRORS = {
    "400": "A parameter makes no sense",
    "401": "The client has not authenticated",
    "403": "The client may not do this",
    "404": "There is no such thing, or the app can't tell",
    "429": "More requests than the rate limit allows",
    "503": "The app can't be asked at the moment",
}
_ERRORS_OF_ACTIONS = {
    **_ERRORS,
    "408": "The body did not come in time",
    "409": "It can't be done, as things are",
    "413": "The body is too large",
    "415": "The body is no JSON",
}


def document(management: Management, authenticates: bool, actions: bool) -> dict[str, Any]:
    """The document.

    Args:
        management: The app's Management API; what needs a method that it doesn't have is left out.
        authenticates: Whether clients have to prove who they are.
        actions: Whether clients may act.
    """
    schemas = Schemas(_HIDDEN)
    hints = _answers(management)
    paths: dict[str, Any] = {
        each.path: {"get": _operation(each, schemas, hints)} for each in ENDPOINTS if management.has(each.method)
    }
    if management.has(_WATCH):
        paths[EVENTS] = {"get": _events(schemas, hints)}
    if actions:
        paths[f"{API}token"] = {"get": _get("token", "A token for actions", _TOKEN)}
        for action in ACTIONS_BY_NAME.values():
            if management.has(action.method):
                paths[f"{API}actions/{action.name}"] = {"post": _action(action)}
    paths[f"{API}openapi.json"] = {"get": _get("openapi", "This document", {"type": "object"})}
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Flowrra",
            "version": __version__,
            "description": "What a Flowrra app does, as its Management API tells. Times are as in RFC 3339.",
        },
        "servers": [{"url": "..", "description": "Where this document is, without api/openapi.json"}],
        "paths": paths,
        "components": {"schemas": {**schemas.components, "Problem": _PROBLEM}},
    }
    if authenticates:
        found["components"]["securitySchemes"] = {"password": {"type": "http", "scheme": "basic"}}
        found["security"] = [{"password": []}]
    return found


def _answers(management: Management) -> dict[str, Any]:
    """The types of the answers by method, where flowrra answers and tells them."""
    found = sys.modules.get("flowrra.management")
    if found is None or not hasattr(found, "answers") or not (management.observes or management.flowrra_version):
        return {}
    manager = found.FlowrraManager
    unlike = _OBSERVED if management.observes else ()
    methods = [*(each.method for each in ENDPOINTS if each.method not in unlike), _WATCH]
    return {method: get_type_hints(getattr(manager, method))["return"] for method in methods}


def _operation(endpoint: Endpoint, schemas: Schemas, hints: Mapping[str, Any]) -> dict[str, Any]:
    if endpoint.method == "list_failed_tasks":
        schema = _FAILURES
    else:
        kind = hints.get(endpoint.method)
        schema = {} if kind is None else schemas.of(kind)
    parameters = [_parameter(each, "query") for each in endpoint.parameters]
    if endpoint.id_parameter:
        schema = _without_null(schema)
        named = {"name": "id", "in": "path", "required": True, "description": "Its id"}
        parameters.append({**named, "schema": ID.schema})
    return _get(endpoint.method, endpoint.text, schema, parameters)


def _without_null(schema: Schema) -> Schema:
    """Of what isn't there the answer is a 404."""
    kinds = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else schema


def _get(name: str, text: str, schema: Schema, parameters: Sequence[Any] = ()) -> dict[str, Any]:
    answer = {"description": text, "content": {"application/json": {"schema": schema}}}
    return {
        "operationId": name,
        "summary": text,
        "parameters": list(parameters),
        "responses": {"200": answer, **_problems(_ERRORS)},
    }


def _parameter(parameter: Parameter, where: str) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": where,
        "required": parameter.required,
        "description": parameter.text,
        "schema": parameter.schema,
    }


def _problems(texts: Mapping[str, str]) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": text, "content": content} for status, text in texts.items()}


def _action(action: Action) -> dict[str, Any]:
    body = {
        "type": "object",
        "properties": {each.name: {**each.schema, "description": each.text} for each in action.parameters},
        "required": [each.name for each in action.parameters if each.required],
        "additionalProperties": False,
    }
    header = {
        "name": "X-Flowrra-Token",
        "in": "header",
        "required": True,
        "description": f"The user's token, as {API}token gives it",
        "schema": {"type": "string"},
    }
    answer = {"description": "It is done", "content": {"application/json": {"schema": _DONE}}}
    return {
        "operationId": action.name,
        "summary": f"{action.label}: {action.method}",
        "parameters": [header],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": answer, **_problems(_ERRORS_OF_ACTIONS)},
    }


def _events(schemas: Schemas, hints: Mapping[str, Any]) -> dict[str, Any]:
    """The stream. OpenAPI 3.1 has no words for what its events hold, so that stands in the description."""
    text = "Changes of tasks, as server-sent events that never end by themselves"
    if (kind := hints.get(_WATCH)) is not None:
        text += f". The data of each is a `{schemas.of(get_args(kind)[0])['$ref'].rpartition('/')[2]}`"
    header = {
        "name": "Last-Event-ID",
        "in": "header",
        "required": False,
        "description": "Go on after the event of this id",
        "schema": EVENT_ID.schema,
    }
    parameters = [*(_parameter(each, "query") for each in PARAMETERS), header]
    operation = _get(_WATCH, text, {"type": "string"}, parameters)
    (schema,) = operation["responses"]["200"]["content"].values()
    operation["responses"]["200"]["content"] = {"text/event-stream": schema}
    return operation
