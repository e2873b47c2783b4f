"""Each registered collector is collected by itself: one that raises, hangs or is slow costs its own metrics."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from flowrra_exporter.metrics import registry_runs
from flowrra_exporter.metrics.collector import Incomplete
from flowrra_exporter.metrics.collectors.python import MAX_LABELS, OTHER, PythonCollector
from flowrra_exporter.metrics.registry_runs import MAX_HANGING, THREAD_NAME
from flowrra_exporter.metrics.samples import AnyFamily, Family
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily

from tests.exporter.conftest import Serve, until
from tests.exporter.contract import ContractApp


class Custom:
    """A user's own collector: runs whatever it is given."""

    def __init__(self, collect: Callable[[], Any]) -> None:
        self._collect = collect

    def collect(self) -> Any:
        return self._collect()

    def describe(self) -> list[Any]:
        return []


class Gate:
    """A collector that hangs until it is opened; ``entered`` says how often it was collected."""

    def __init__(self, name: str = "late") -> None:
        self.opened = threading.Event()
        self.entered = 0
        self._name = name

    def collect(self) -> Iterable[Any]:
        self.entered += 1
        self.opened.wait(30)
        yield GaugeMetricFamily(self._name, "Late.", value=1)

    def describe(self) -> list[Any]:
        return []


def raises(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def endless() -> Iterator[Any]:
    while True:
        yield GaugeMetricFamily("endless", "Never done.", value=1)


def threads() -> int:
    return sum(thread.name == THREAD_NAME for thread in threading.enumerate())


class Collected:
    """What one collection found: values by name, and how the collectors fared by label."""

    def __init__(self, families: Iterable[AnyFamily], problem: str) -> None:
        self.problem = problem
        self.values: dict[str, float] = {}
        self.fared: dict[str, dict[str, Any]] = {}
        for family in families:
            if isinstance(family, Family):
                self.fared[family.metric.name] = {labels[0]: value for labels, value in family.points}
            else:
                self.values.update({sample.name: sample.value for sample in family.samples})

    @property
    def success(self) -> dict[str, Any]:
        return self.fared["flowrra_registered_collector_success"]


async def collect(collector: PythonCollector) -> Collected:
    try:
        return Collected(await collector.collect(), "")
    except Incomplete as incomplete:
        return Collected(incomplete.families, str(incomplete))


FAILURES = {
    "an exception": raises(RuntimeError("gone")),
    "SystemExit": raises(SystemExit(1)),
    "KeyboardInterrupt": raises(KeyboardInterrupt()),
    "CancelledError": raises(asyncio.CancelledError()),
    "GeneratorExit": raises(GeneratorExit()),
    "nothing to iterate over": lambda: None,
    "an error without a text": raises(type("Mute", (Exception,), {"__str__": raises(ValueError("mute"))})()),
}


@pytest.mark.slow
@pytest.mark.parametrize("failure", FAILURES.values(), ids=list(FAILURES))
async def test_one_that_fails_costs_what_it_had_not_yielded(
    failure: Callable[[], Any], serve: Serve, register: Callable[[Any], Any]
) -> None:
    register(Custom(failure))
    register(Gauge("registered_later", "After it.", registry=None)).set(1)
    service = await serve(ContractApp())
    for _ in range(5):  # more often than a source is asked that keeps failing
        scrape = await service.get()
        assert scrape.value("registered_later") == 1
        assert "process_resident_memory_bytes" in {name for name, _ in scrape.samples}
        assert scrape.value("flowrra_registered_collector_success", collector="Custom") == 0
        assert scrape.value("flowrra_registered_collector_success", collector="prometheus_client") == 1
        assert scrape.value("flowrra_collector_success", collector="python") == 0


@pytest.mark.slow
async def test_one_that_takes_longer_than_a_second_is_served(serve: Serve, register: Callable[[Any], Any]) -> None:
    def slow() -> Any:
        time.sleep(1.5)  # what the test is about
        return [GaugeMetricFamily("slow", "Slow.", value=1)]

    register(Custom(slow))
    scrape = await (await serve(ContractApp())).get(X_Prometheus_Scrape_Timeout_Seconds="10")
    assert scrape.value("slow") == 1
    assert scrape.value("flowrra_registered_collector_success", collector="Custom") == 1
    assert scrape.value("flowrra_registered_collector_duration_seconds", collector="Custom") >= 1.5
    assert scrape.value("flowrra_registered_collector_duration_seconds", collector="prometheus_client") < 1.5


@pytest.mark.slow
async def test_a_scrape_that_can_not_wait_for_one_has_all_the_others(
    serve: Serve, register: Callable[[Any], Any]
) -> None:
    gate = register(Gate())
    register(Gauge("registered_later", "After it.", registry=None)).set(1)
    service = await serve(ContractApp())
    scrapes = await asyncio.gather(*(service.get(X_Prometheus_Scrape_Timeout_Seconds="1") for _ in range(2)))
    scrapes.append(await service.get(X_Prometheus_Scrape_Timeout_Seconds="1"))  # while the first still waits
    for scrape in scrapes:
        assert scrape.value("registered_later") == 1
        assert scrape.value("flowrra_healthy") == 1
        assert "process_resident_memory_bytes" in {name for name, _ in scrape.samples}
        assert scrape.value("flowrra_registered_collector_success", collector="Gate") == 0
        assert scrape.value("late") is None
        assert scrape.seconds < 4
    assert gate.entered == 1
    gate.opened.set()
    await until(lambda: threads() == 0)
    assert (await service.get()).value("late") == 1


@pytest.mark.slow
async def test_one_that_never_ends_to_yield_is_left_when_its_time_is_up() -> None:
    registry = CollectorRegistry()
    registry.register(Custom(endless))  # type: ignore[arg-type]
    Gauge("later", "After it.", registry=registry).set(1)
    found = await collect(PythonCollector(0.2, registry))
    assert found.values["later"] == 1
    assert "has not answered" in found.problem
    await until(lambda: threads() == 0)


async def test_one_that_yields_too_much_is_cut_off_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_runs, "MAX_SERIES", 100)
    registry = CollectorRegistry()
    registry.register(Custom(lambda: (GaugeMetricFamily(f"many_{n}", "Many.", value=n) for n in itertools.count())))  # type: ignore[arg-type]
    Gauge("later", "After it.", registry=registry).set(1)
    found = await collect(PythonCollector(5.0, registry))
    assert len(found.values) == 1 + 51
    assert "Custom: it yields more than 100 series" in found.problem


async def test_one_that_hangs_has_one_thread_and_is_not_started_again() -> None:
    registry, gate = CollectorRegistry(), Gate()
    registry.register(gate)
    Gauge("later", "After it.", registry=registry).set(1)
    collector = PythonCollector(0.1, registry)
    for _ in range(5):
        assert (await collect(collector)).values == {"later": 1}
        await until(lambda: threads() == 1)  # one that has answered takes a moment to end
    assert gate.entered == 1
    gate.opened.set()
    await until(lambda: threads() == 0)


@pytest.mark.slow
async def test_where_many_hang_those_go_on_that_have_answered_and_no_more_threads_are_made() -> None:
    registry = CollectorRegistry()
    Gauge("steady", "It always answers.", registry=registry).set(1)
    collector = PythonCollector(0.1, registry)
    assert (await collect(collector)).values == {"steady": 1}
    gates: list[Gate] = []
    try:
        for _ in range(MAX_HANGING + 5):  # each comes, hangs and goes
            gates.append(Gate())
            registry.register(gates[-1])
            assert (await collect(collector)).values == {"steady": 1}
            registry.unregister(gates[-1])
        assert sum(gate.entered for gate in gates) == MAX_HANGING
        await until(lambda: threads() <= MAX_HANGING + 1)
        assert "isn't asked while 16 collectors hang" in (await collect_with(registry, collector, Gate())).problem
    finally:
        for gate in gates:
            gate.opened.set()
    await until(lambda: threads() == 0)
    assert (
        await collect_with(registry, collector, Custom(lambda: [GaugeMetricFamily("new", "", value=2)]))
    ).values == {
        "steady": 1,
        "new": 2,
    }


async def collect_with(registry: CollectorRegistry, collector: PythonCollector, another: Any) -> Collected:
    registry.register(another)
    try:
        return await collect(collector)
    finally:
        registry.unregister(another)


@pytest.mark.slow
async def test_a_registry_whose_lock_is_held_is_collected() -> None:
    registry = CollectorRegistry()
    Gauge("steady", "It always answers.", registry=registry).set(1)
    with registry._lock:  # as by one who registers a collector that hangs
        assert (await collect(PythonCollector(1.0, registry))).values == {"steady": 1}


async def test_the_number_of_labels_is_bounded() -> None:
    registry = CollectorRegistry()
    for number in range(MAX_LABELS + 20):
        kind = type(f"Collector{number}", (Custom,), {})
        registry.register(kind(raises(RuntimeError("gone"))))  # type: ignore[arg-type]
    success = (await collect(PythonCollector(1.0, registry))).success
    assert len(success) == MAX_LABELS + 1
    assert success[OTHER] == 0


async def test_what_the_registry_says_of_the_target_is_served() -> None:
    registry = CollectorRegistry(target_info={"region": "eu"})
    assert (await collect(PythonCollector(1.0, registry))).values == {"target_info": 1}


async def test_failures_are_logged_when_they_begin_and_when_they_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    registry, answers = CollectorRegistry(), [False, False, True]

    def sometimes() -> Any:
        if answers.pop(0):
            return []
        raise RuntimeError("gone")

    registry.register(Custom(sometimes))  # type: ignore[arg-type]
    collector = PythonCollector(1.0, registry)
    for _ in range(3):
        await collect(collector)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("the registered collector Custom fails: it raised RuntimeError: gone (at ")
    assert said[1] == "the registered collector Custom works again"


async def test_of_several_of_one_class_those_that_do_well_end_no_failure_of_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = CollectorRegistry()
    for each in (list, raises(RuntimeError("gone")), list):
        registry.register(Custom(each))  # type: ignore[arg-type]
    collector = PythonCollector(1.0, registry)
    for _ in range(3):
        await collect(collector)
    assert len(caplog.records) == 1


async def test_an_observer_runs_no_collector_of_the_app() -> None:
    registry, gate = CollectorRegistry(), Gate()
    registry.register(gate)
    Gauge("of_the_app", "Not run here.", registry=registry).set(1)
    assert (await collect(PythonCollector(1.0, registry, own_only=True))).values == {}
    assert gate.entered == 0


async def test_the_number_of_series_is_what_is_served(serve: Serve, register: Callable[[Any], Any]) -> None:
    def odd() -> Any:
        family = GaugeMetricFamily("odd", "Odd.", labels=["town"])
        family.add_metric(["Trier"], None)  # type: ignore[arg-type]
        family.add_metric(["Bonn"], 1)
        return [family]

    register(Custom(odd))
    register(Gauge("pods_created", "Pods.", registry=None)).set(1)
    service = await serve(ContractApp())
    for accept in ("text/plain", "application/openmetrics-text"):
        scrape = await service.get(Accept=accept)
        lines = [line for line in scrape.text.splitlines() if not line.startswith("#")]
        assert f"flowrra_exporter_series {len(lines)}" in lines
        assert "flowrra_exporter_series_dropped 1" in lines
        assert 'flowrra_registered_series_dropped{collector="Custom",reason="value"} 1' in lines
