"""Fixtures: receivers, and an environment without anybody's OTEL_* variables."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.exporter.otel.receivers import GrpcReceiver, HttpReceiver, Inbox, receiver


@pytest.fixture(autouse=True)
def no_otel_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def http(inbox: Inbox) -> Iterator[HttpReceiver | GrpcReceiver]:
    yield from receiver(HttpReceiver, inbox)


@pytest.fixture(params=[HttpReceiver, GrpcReceiver], ids=["http", "grpc"])
def either(request: pytest.FixtureRequest, inbox: Inbox) -> Iterator[HttpReceiver | GrpcReceiver]:
    yield from receiver(request.param, inbox)
