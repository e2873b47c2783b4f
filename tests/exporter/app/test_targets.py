"""Which targets are apps, and what is said of those that aren't."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator

import pytest
from flowrra_exporter.app.target import Target, import_target, resolve_target
from flowrra_exporter.errors import UsageError

from flowrra import Flowrra
from flowrra.management import FlowrraManager
from tests.exporter.conftest import TARGETS
from tests.exporter.contract import MinimalApp


@pytest.fixture(autouse=True)
def in_the_folder_of_targets() -> Iterator[None]:
    """As for the command: the current folder is importable, and nothing was imported from it yet."""
    before, path, modules = os.getcwd(), sys.path.copy(), set(sys.modules)
    os.chdir(TARGETS)
    yield
    os.chdir(before)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(TARGETS)):
            del sys.modules[name]


async def load(text: str) -> Target:
    return await resolve_target(import_target(text), text)


@pytest.mark.parametrize("name", ["app", "make", "make_later", "holder.app"])
async def test_a_flowrra_app_gets_a_manager(name: str) -> None:
    target = await load(f"plain:{name}")
    assert isinstance(target.app, Flowrra)
    assert isinstance(target.manager, FlowrraManager)
    assert target.manager.app is target.app


@pytest.mark.parametrize("name", ["duck", "Duck", "manager"])
async def test_an_object_that_answers_for_itself_is_its_own_manager(name: str) -> None:
    target = await load(f"plain:{name}")
    assert target.manager is target.app
    assert (await target.manager.get_stats())["app"]["running"] in (True, False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((text, "names no app; expected 'module:attribute'") for text in ("plain", "plain:", ":app", "a b:c", "")),
        ("nowhere:app", "there is no module 'nowhere'"),
        ("plain.deeper:app", "there is no module 'plain.deeper'"),
        ("plain:nothing", "module 'plain' has no attribute 'nothing'"),
        ("plain:holder.nothing", "module 'plain' has no attribute 'holder.nothing'"),
        ("raises:app", r"importing 'raises' failed: RuntimeError: broken module \(at .*raises\.py:3\)"),
        ("misses:app", "importing 'misses' failed: ModuleNotFoundError: No module named 'not_installed_anywhere'"),
        ("leaves:app", r"importing 'leaves' failed: SystemExit: 5 \(at .*leaves\.py:5\)"),
        ("plain:number", "'plain:number' is no app but 17; expected a flowrra.Flowrra, an object with async"),
        ("plain:make_number", "'plain:make_number' is no app but 17"),
        ("plain:Duck.get_stats", "'plain:Duck.get_stats' is called without arguments, and needs self; expected an"),
        (
            "plain:make_for",
            "'plain:make_for' is called without arguments, and needs stage, region; expected an app, or",
        ),
        ("plain:fail", r"calling 'plain:fail' failed: ValueError: no way \(at .*plain\.py:\d+\)"),
    ],
)
async def test_what_is_wrong_is_said_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as error:
        await load(text)
    assert re.search(reason, str(error.value))
    assert "\n" not in str(error.value)


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("found", "what"),
    [({"password": "s3cret"}, "a dict"), ("s3cret", "a str"), (Broken(), "a Broken"), (None, "None"), (17, "17")],
)
async def test_what_is_no_app_is_told_by_its_kind_and_not_by_what_is_in_it(found: object, what: str) -> None:
    with pytest.raises(UsageError, match=f"'shop:settings' is no app but {what}; expected"):
        await resolve_target(found, "shop:settings")


class Stoppable(MinimalApp):
    def __init__(self) -> None:
        super().__init__()
        self.stopped: list[tuple[bool, float]] = []

    def start(self) -> None:
        self.stats["app"]["running"] = "started"

    async def stop(self, wait: bool = True, timeout: float = 30.0) -> None:
        self.stopped.append((wait, timeout))


async def test_an_app_is_started_and_stopped_with_what_its_methods_take() -> None:
    app = Stoppable()
    target = await resolve_target(app, "text")
    await target.start()
    assert app.stats["app"]["running"] == "started"
    await target.stop(wait=False, timeout=2.5)
    assert app.stopped == [(False, 2.5)]


async def test_an_app_without_start_and_stop_needs_neither() -> None:
    target = await resolve_target(MinimalApp(), "text")
    await target.start()
    await target.stop(wait=True, timeout=1.0)
