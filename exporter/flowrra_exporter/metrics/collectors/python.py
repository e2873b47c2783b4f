"""prometheus_client's default registry: the user's own metrics, and those of the process, the GC and Python.

A user's collector can do anything, also hang: each is collected by itself (``registry_runs``), what it yields is read
with care (``foreign_families``), and what any of them costs is its own metrics.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.metrics import MetricWrapperBase

from flowrra_exporter.metrics import catalog, multiprocess
from flowrra_exporter.metrics.collector import Collector, Incomplete
from flowrra_exporter.metrics.foreign_families import Found, LeftOut, merged
from flowrra_exporter.metrics.multiprocess import MultiProcessFiles
from flowrra_exporter.metrics.registry_runs import Round, Run, Source
from flowrra_exporter.metrics.samples import AnyFamily, Family, ForeignFamily

logger = logging.getLogger(__name__)

# So many collectors have a label of their own; the others share OTHER.
MAX_LABELS = 50
OTHER = "__other__"
_OF_THE_PROCESS = ("process_", "python_")
_LIBRARY = "prometheus_client"
_MAX_MESSAGES = 200


class PythonCollector(Collector):
    """process_*, python_*, and whatever else the app registered; and how its collectors fared.

    Args:
        timeout: The time for each registered collector, in seconds.
        registry: The registry.
        own_only: The collectors that the app registered are left out: an app that doesn't run here counts nothing here.

    Attributes:
        dropped: The number of time series that were left out of the last collection.
        left_out: What was left out of the last collection, in words.
    """

    name = "python"
    keeps_sources_apart = True

    def __init__(self, timeout: float, registry: CollectorRegistry = REGISTRY, own_only: bool = False) -> None:
        self.dropped = 0
        # What was left out of the last collection, in words.
        self.left_out: list[str] = []
        self._own_only = own_only
        self._timeout = timeout
        self._registry = registry
        self._sources: dict[int, Source] = {}
        self._labels: set[str] = set()
        self._abandoned: list[Run] = []
        self._files: tuple[Any, Sequence[str]] = (MultiProcessFiles(), ())
        self._target_info: tuple[Any, Sequence[str]] = (_TargetInfo(registry), ("target",))
        self._round: Round | None = None
        self._log = _Log()

    async def collect(self) -> Sequence[AnyFamily]:
        hanging = self._look_for_sources()
        round = self._round = Round(list(self._sources.values()), self._timeout, hanging)
        await round.wait()
        families, problem = await self._result(round, is_over=True)
        if problem:
            raise Incomplete(problem, families)
        return families

    async def so_far(self) -> Sequence[AnyFamily]:
        """What has been collected by now, for a scrape that can't wait any longer."""
        return () if self._round is None else (await self._result(self._round, is_over=False))[0]

    def _look_for_sources(self) -> int:
        """Notes which collectors are registered now; returns how many hang, those that no longer are among them."""
        known, self._sources = self._sources, {}
        registered = [self._target_info, *_registered(self._registry)]
        if multiprocess.is_on():
            registered = [self._files, *(each for each in registered if not multiprocess.is_in_files(each[0]))]
        for collector, names in registered:
            if not self._own_only or _is_of_the_process(collector):
                self._sources[id(collector)] = (
                    known.pop(id(collector)) if id(collector) in known else self._source(collector, names)
                )
        gone = [source.run for source in known.values() if source.run is not None]
        for run in gone:
            run.abandoned = True
        self._abandoned = [run for run in (*self._abandoned, *gone) if not run.done.is_set()]
        runs = [source.run for source in self._sources.values()]
        return len(self._abandoned) + sum(run is not None and run.is_overdue(self._timeout) for run in runs)

    def _source(self, collector: Any, names: Sequence[str]) -> Source:
        kind = type(collector).__qualname__
        title = f"{kind} {names[0]}" if isinstance(collector, MetricWrapperBase) and names else kind
        return Source(collector, names, self._label(collector), title)

    def _label(self, collector: Any) -> str:
        name = _LIBRARY if _is_of_the_library(collector) else type(collector).__qualname__
        if name not in self._labels and len(self._labels) >= MAX_LABELS:
            return OTHER
        self._labels.add(name)
        return name

    async def _result(self, round: Round, is_over: bool) -> tuple[list[AnyFamily], str]:
        """The families of the runs that have ended, with those about the runs; and what is wrong, in words."""
        found: list[tuple[Found, LeftOut]] = []
        undeclared: list[tuple[Found, LeftOut]] = []
        fared = _Fared()
        noted: list[tuple[Source, LeftOut]] = []
        failing: list[str] = []
        errors: dict[str, str] = {}
        for source in round.sources:
            run, error = round.outcome(source)
            fared.add(source.label, error, 0.0 if run is None else run.seconds)
            errors[source.title] = errors.get(source.title) or error
            if error:
                failing.append(f"{source.title}: {error}")
            if run is not None:
                left_out = run.left_out.copy()  # to be added to by the merging
                noted.append((source, left_out))
                for each in run.found:
                    if self._serves(each.family):
                        (found if each.raw_name in source.names else undeclared).append((each, left_out))
        if is_over:  # what has not answered yet may still do so
            self._log.failures(errors)
        # A name that the registry keeps for a collector isn't another one's, though that may come first.
        families = await merged([*found, *undeclared])
        self.dropped, self.left_out = 0, []
        for source, left_out in noted:
            self.dropped += sum(left_out.series.values())
            fared.add_left_out(source.label, left_out)
            self.left_out += self._log.left_out(source.title, left_out)
        problem = f"{len(failing)} of {len(round.sources)} registered collectors fail: {failing[0]}" if failing else ""
        return [*families, *fared.families()], problem

    def _serves(self, family: ForeignFamily) -> bool:
        return not self._own_only or family.name.startswith(_OF_THE_PROCESS)


class _TargetInfo:
    """What the registry says of the target: a collector of its own, since the registry has it in none."""

    def __init__(self, registry: Any) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        get_info = getattr(self._registry, "get_target_info", None)
        info: dict[str, str] | None = None if get_info is None else get_info()
        if info:
            family = Metric("target", "Target metadata", "info")
            family.add_sample("target_info", info, 1)
            yield family


def _registered(registry: Any) -> list[tuple[Any, Sequence[str]]]:
    """The collectors of a registry, each with the names that it keeps for it.

    The registry's lock isn't taken: whoever registers a collector that hangs holds it. An object that has no more than
    a ``collect`` is a collector itself.
    """
    collectors = getattr(registry, "_collector_to_names", None)
    if collectors is None:
        return [(registry, ())]
    return list(collectors.items())


def _is_of_the_library(collector: Any) -> bool:
    return f"{type(collector).__module__}.".startswith(f"{_LIBRARY}.") or isinstance(collector, _TargetInfo)


def _is_of_the_process(collector: Any) -> bool:
    return _is_of_the_library(collector) and not isinstance(collector, MetricWrapperBase)


class _Fared:
    """How the registered collectors fared, by label: several may share one."""

    def __init__(self) -> None:
        self._success: dict[str, bool] = {}
        self._seconds: dict[str, float] = {}
        self._left_out: dict[tuple[str, str], int] = {}

    def add(self, label: str, error: str, seconds: float) -> None:
        self._success[label] = self._success.get(label, True) and not error
        self._seconds[label] = max(self._seconds.get(label, 0.0), seconds)

    def add_left_out(self, label: str, left_out: LeftOut) -> None:
        for (_, reason), series in left_out.series.items():
            self._left_out[label, reason] = self._left_out.get((label, reason), 0) + series

    def families(self) -> list[Family]:
        return [
            Family(catalog.REGISTERED_SUCCESS, [((label,), int(well)) for label, well in self._success.items()]),
            Family(catalog.REGISTERED_DURATION, [((label,), seconds) for label, seconds in self._seconds.items()]),
            Family(catalog.REGISTERED_DROPPED, list(self._left_out.items())),
        ]


class _Log:
    """Says once what is left out, and when a registered collector begins to fail or works again."""

    def __init__(self) -> None:
        self._said: set[tuple[str, str, str]] = set()
        self._failing: set[str] = set()

    def failures(self, errors: Mapping[str, str]) -> None:
        """Notes how the collectors fared: those of one title together, with nothing for those that did well."""
        self._failing &= errors.keys()
        for title, error in errors.items():
            if not error and title in self._failing:
                self._failing.discard(title)
                logger.info("the registered collector %s works again", title)
            elif error and title not in self._failing and len(self._failing) < _MAX_MESSAGES:
                self._failing.add(title)
                logger.warning("the registered collector %s fails: %s", title, error)

    def left_out(self, title: str, left_out: LeftOut) -> list[str]:
        """Notes what is left out of a collector, and returns it in words."""
        messages = []
        for (metric, reason), example in left_out.examples.items():
            message = f"of the registered metric {metric!r} ({title}) something is left out ({reason}): {example}"
            messages.append(message)
            key = title, metric, reason
            if key not in self._said and len(self._said) < _MAX_MESSAGES:
                self._said.add(key)
                logger.warning("%s", message)
                if len(self._said) == _MAX_MESSAGES:
                    logger.warning("what else is left out of the registered metrics is counted, and no longer logged")
        return messages
