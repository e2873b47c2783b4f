"""When the web configuration is read again, in simulated time: what is noticed, applied, logged, and tried anew."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flowrra_exporter.errors import UsageError
from flowrra_exporter.web.access import reload
from flowrra_exporter.web.access.reload import WebConfigFile
from flowrra_exporter.web.access.web_config import WebConfig

from tests.exporter.simulated_time import SimulatedLoop, run_in

KEPT = "the web configuration stays as it was: "


class Watched:
    """A configuration file that is watched, with what became of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.applied: list[int] = []
        self.reads = 0
        self.refusal: Exception | None = None
        self.also: tuple[Path, ...] = ()
        self.write(1)
        self.file = WebConfigFile(path)

    def write(self, burst: object) -> None:
        self.path.write_text(f"rate_limit: {{interval: 1s, burst: {burst}}}{'#' * len(self.applied)}\n")

    def apply(self, config: WebConfig) -> None:
        if self.refusal is not None:
            raise self.refusal
        assert config.rate is not None
        self.applied.append(config.rate.burst)

    @contextlib.asynccontextmanager
    async def watched(self) -> Any:
        task = asyncio.create_task(self.file.watch(self.apply))
        await asyncio.sleep(0.5)  # so that it looks between the seconds of the test
        yield task
        task.cancel()
        await asyncio.wait({task})


Simulate = Callable[[Callable[[Watched], Any]], None]


@pytest.fixture
def simulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Simulate:
    """Runs a scenario with a file that is watched. What is done in a thread otherwise is done at once."""
    loop = SimulatedLoop()
    load = reload.load_web_config
    watched: list[Watched] = []

    async def at_once(function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    def count(path: Path) -> WebConfig:
        for each in watched:
            each.reads += 1
        config = load(path)
        for each in watched:
            config = WebConfig(rate=config.rate, users=config.users, files=(*config.files, *each.also))
        return config

    monkeypatch.setattr(asyncio, "to_thread", at_once)
    monkeypatch.setattr(reload, "time", SimpleNamespace(monotonic=loop.time))
    monkeypatch.setattr(reload, "load_web_config", count)
    caplog.set_level(logging.INFO, "flowrra_exporter")
    watched.append(Watched(tmp_path / "web.yml"))
    return lambda scenario: run_in(loop, lambda: scenario(watched[0]))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.endswith("reload")]


def test_a_change_is_noticed_within_a_second_and_what_stays_the_same_is_not_read(
    simulate: Simulate, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(watched: Watched) -> None:
        async with watched.watched():
            await asyncio.sleep(60)
            assert (watched.reads, watched.applied) == (0, [])
            watched.write(22)
            await asyncio.sleep(0.4)
            assert watched.applied == []
            await asyncio.sleep(0.2)
            assert watched.applied == [22]
            await asyncio.sleep(60)
            assert (watched.reads, watched.applied) == (1, [22])
            assert watched.file.current.rate is not None
            assert watched.file.current.rate.burst == 22
            assert watched.file.in_order

    simulate(scenario)
    assert len(said(caplog)) == 1
    assert said(caplog)[0].startswith("read the web configuration again: ")


def touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def replaced(path: Path) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(path.read_bytes())
    os.utime(fresh, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    os.replace(fresh, path)


@pytest.mark.parametrize("change", [touched, replaced])
def test_another_file_of_the_same_content_is_read_too(simulate: Simulate, change: Callable[[Path], None]) -> None:
    async def scenario(watched: Watched) -> None:
        async with watched.watched():
            change(watched.path)
            await asyncio.sleep(1)
            assert watched.applied == [1]

    simulate(scenario)


def test_who_asks_has_it_read_at_once_and_once_though_nothing_has_changed(simulate: Simulate) -> None:
    async def scenario(watched: Watched) -> None:
        async with watched.watched():
            watched.file.ask()
            await asyncio.sleep(0.01)
            assert watched.applied == [1]
            await asyncio.sleep(60)
            assert watched.applied == [1]

    simulate(scenario)


def test_a_mistake_changes_nothing_is_logged_once_and_read_again_every_ten_seconds(
    simulate: Simulate, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(watched: Watched) -> None:
        async with watched.watched():
            watched.write("many")
            await asyncio.sleep(1)
            assert (watched.applied, watched.file.in_order) == ([], False)
            assert len(said(caplog)) == 1
            assert watched.reads == 1
            await asyncio.sleep(9)
            assert watched.reads == 1
            await asyncio.sleep(1)
            assert watched.reads == 2
            await asyncio.sleep(101)
            assert 11 <= watched.reads <= 13
            assert len(said(caplog)) == 1
            watched.write(33)
            await asyncio.sleep(1)
            assert (watched.applied, watched.file.in_order) == ([33], True)
            await asyncio.sleep(60)
            assert watched.applied == [33]

    simulate(scenario)
    first, second = said(caplog)
    assert first.startswith(KEPT)
    assert "burst" in first
    assert second.startswith("read the web configuration again: ")


def test_a_mistake_is_logged_anew_if_it_is_another_one_or_someone_asks(
    simulate: Simulate, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(watched: Watched) -> None:
        async with watched.watched():
            watched.refusal = UsageError("no thread")
            watched.write(4)
            await asyncio.sleep(1)
            assert said(caplog) == [f"{KEPT}no thread"]
            watched.refusal = UsageError("no descriptor")
            await asyncio.sleep(11)
            assert said(caplog)[1:] == [f"{KEPT}no descriptor"]
            watched.file.ask()
            await asyncio.sleep(1)
            assert said(caplog)[2:] == [f"{KEPT}no descriptor"]
            watched.write(55)
            await asyncio.sleep(1)
            assert said(caplog)[3:] == [f"{KEPT}no descriptor"]
            await asyncio.sleep(30)
            assert len(said(caplog)) == 4
            assert watched.file.current.rate is not None
            assert watched.file.current.rate.burst == 1
            watched.refusal = None
            await asyncio.sleep(11)
            assert watched.applied == [55]

    simulate(scenario)


def test_a_failure_that_nobody_expects_ends_the_watch_and_is_made_up_for_by_the_next(simulate: Simulate) -> None:
    async def scenario(watched: Watched) -> None:
        async with watched.watched() as task:
            watched.refusal = MemoryError()
            watched.write(6)
            with pytest.raises(MemoryError):
                await task
        assert not watched.file.in_order
        watched.refusal = None
        async with watched.watched():
            await asyncio.sleep(8)
            assert watched.applied == []
            await asyncio.sleep(3)
            assert (watched.applied, watched.file.in_order) == ([6], True)

    simulate(scenario)


def test_a_section_that_protects_is_not_lost_by_mistake(simulate: Simulate, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(watched: Watched) -> None:
        watched.file.current = WebConfig(users={"anna": "hash"}, files=(watched.path,))
        async with watched.watched():
            watched.write(7)
            await asyncio.sleep(1)
            assert watched.applied == []
            assert watched.file.current.users

    simulate(scenario)
    (line,) = said(caplog)
    assert line.endswith("basic_auth_users is gone; expected 'basic_auth_users: {}' if it is to be gone")


def test_what_the_file_names_now_is_watched_and_a_file_that_is_gone_is_noticed(
    simulate: Simulate, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(watched: Watched) -> None:
        key = watched.path.with_name("server.key")
        async with watched.watched():
            watched.also = (key,)
            watched.write(8)
            await asyncio.sleep(1)
            await asyncio.sleep(60)
            assert watched.applied == [8], "a file that isn't there stays the same, too"
            key.write_text("key")
            await asyncio.sleep(1)
            assert watched.applied == [8, 8]
            key.unlink()
            await asyncio.sleep(1)
            assert watched.applied == [8, 8, 8]
            watched.path.unlink()
            await asyncio.sleep(1)
            assert not watched.file.in_order
            assert said(caplog)[-1].startswith(f"{KEPT}{watched.path}: No such file")
            watched.write(9)
            await asyncio.sleep(1)
            assert watched.applied[-1] == 9

    simulate(scenario)


def test_a_file_that_is_wrong_from_the_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        WebConfigFile(tmp_path / "none.yml")
