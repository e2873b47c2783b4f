"""The schedule stores, each on an empty database of a real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.scheduler.databases import STORES, NotHere, database


@pytest.fixture(params=["sqlite", *(pytest.param(store, marks=pytest.mark.tools) for store in STORES[1:])])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store, on one kind of database after the other."""
    with ExitStack() as made:
        try:
            found = made.enter_context(database(request.param, tmp_path))
        except NotHere as error:
            pytest.skip(str(error))
        yield found
