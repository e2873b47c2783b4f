"""How a worker process notices that a task changed a metric that nobody sees, and what goes with a process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, values

from flowrra.executors.processes.program_metrics import DIRECTORY, Changes, UnseenChanges, forget

OWN: Any = values.MutexValue
KNOWN = (OWN.inc, OWN.set)


@pytest.fixture(autouse=True)
def leave_no_trace() -> Iterator[None]:
    yield
    OWN.inc, OWN.set = KNOWN


class TestChanges:
    @pytest.mark.parametrize("how", ["inc", "set"])
    def test_are_noticed_once_and_made(self, how: str) -> None:
        gauge, changes = Gauge("stock", "Books", registry=CollectorRegistry()), Changes()
        changes.watch()
        assert not changes.noticed
        getattr(gauge, how)(3)
        assert changes.noticed
        assert gauge._value.get() == 3
        assert (OWN.inc, OWN.set) == KNOWN, "from then on it costs nothing"

    def test_before_are_none(self) -> None:
        counter, changes = Counter("orders", "Orders", registry=CollectorRegistry()), Changes()
        counter.inc()
        changes.watch()
        assert not changes.noticed

    def test_are_watched_for_only_once(self) -> None:
        counter, changes = Counter("orders", "Orders", registry=CollectorRegistry()), Changes()
        changes.watch()
        counter.inc()
        changes.noticed = False
        changes.watch()
        counter.inc()
        assert not changes.noticed

    def test_are_seen_in_the_mode_of_many_processes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue())
        Changes().watch()
        assert (OWN.inc, OWN.set) == KNOWN

    @pytest.mark.parametrize("found", [None, object()], ids=["not imported", "another release"])
    def test_of_what_is_not_known_are_not_watched_for(self, monkeypatch: pytest.MonkeyPatch, found: object) -> None:
        if found is None:
            monkeypatch.delitem(sys.modules, "prometheus_client.values")
        else:
            monkeypatch.setitem(sys.modules, "prometheus_client.values", found)  # type: ignore[arg-type]
        changes = Changes()
        changes.watch()
        assert (OWN.inc, OWN.set) == KNOWN
        monkeypatch.undo()
        changes.watch()
        assert (OWN.inc is KNOWN[0]) == (found is not None), "one that is imported later is known"

    def test_are_warned_of_once_whatever_task_it_is(self, caplog: pytest.LogCaptureFixture) -> None:
        unseen = UnseenChanges()
        unseen.warn("count")
        unseen.warn("sell")
        assert [record.args[:1] for record in caplog.records if isinstance(record.args, tuple)] == [("count",)]


class TestEndOfAProcess:
    @pytest.fixture
    def files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv(DIRECTORY, str(tmp_path))
        for name in ("gauge_livesum_7.db", "gauge_livesum_8.db", "counter_7.db"):
            (tmp_path / name).touch()
        return tmp_path

    def test_takes_its_living_gauges_with_it(self, files: Path) -> None:
        forget(7)
        assert {file.name for file in files.iterdir()} == {"gauge_livesum_8.db", "counter_7.db"}

    def test_that_never_began_takes_nothing(self, files: Path) -> None:
        forget(None)
        assert len(list(files.iterdir())) == 3

    @pytest.mark.parametrize("value", [None, ""])
    def test_without_that_mode_takes_nothing(
        self, files: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
    ) -> None:
        monkeypatch.delenv(DIRECTORY) if value is None else monkeypatch.setenv(DIRECTORY, value)
        forget(7)
        assert len(list(files.iterdir())) == 3

    def test_where_nobody_counts_is_nothing(self, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "prometheus_client.multiprocess", None)  # type: ignore[arg-type]
        forget(7)
        assert len(list(files.iterdir())) == 3

    def test_whose_gauges_stay_says_so(self, files: Path, caplog: pytest.LogCaptureFixture) -> None:
        (files / "gauge_livesum_7.db").unlink()
        (files / "gauge_livesum_7.db").mkdir()
        forget(7)
        assert "the gauges of the ended worker process 7 stay" in caplog.text
