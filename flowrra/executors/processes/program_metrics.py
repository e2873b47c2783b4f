"""Metrics of prometheus_client that tasks change in worker processes.

A worker process counts for itself, and no scrape reaches it. prometheus_client has a mode for that, in which each
process writes files that the scraped one reads: PROMETHEUS_MULTIPROC_DIR switches it on. Then what a process leaves
behind when it has ended is to be cleared up; without it a change is lost, and that is worth a warning.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, Final

logger = logging.getLogger(__name__)

DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"


class Changes:
    """Notices in a worker process whether a task changes a metric that nobody will see.

    Attributes:
        noticed: Whether one has been changed.
    """

    def __init__(self) -> None:
        self.noticed = False
        self._is_watching = False

    def watch(self) -> None:
        """Notice changes from now on; to be called when the task's modules have been imported.

        What a module sets while it is imported is no change. Once one is noticed, the metrics are as they were before.
        """
        values: Any = sys.modules.get("prometheus_client.values")
        if values is None or self._is_watching:
            return
        self._is_watching = True
        value_class = getattr(values, "MutexValue", None)
        if value_class is not None and getattr(values, "ValueClass", None) is value_class:
            self._wrap(value_class)

    def _wrap(self, value_class: Any) -> None:
        unwrapped = {name: getattr(value_class, name) for name in ("inc", "set")}

        def noticing(name: str) -> Any:
            def change(value: Any, *args: Any, **kwargs: Any) -> Any:
                self.noticed = True
                for each, method in unwrapped.items():
                    setattr(value_class, each, method)
                return unwrapped[name](value, *args, **kwargs)

            return change

        for name in unwrapped:
            setattr(value_class, name, noticing(name))


class UnseenChanges:
    """Says once that tasks change metrics where nobody sees them."""

    def __init__(self) -> None:
        self._is_said = False

    def warn(self, task: str) -> None:
        """Say it, unless it has been said.

        Args:
            task: The name of the task that did.
        """
        if not self._is_said:
            self._is_said = True
            logger.warning(
                "the task %r changed a metric of prometheus_client in a worker process, where no scrape sees it; "
                "expected %s to name an empty directory before the program starts (docs/own_metrics.md)",
                task,
                DIRECTORY,
            )


def forget(pid: int | None) -> None:
    """Remove the gauges of a process that has ended, as far as they count living processes only.

    Args:
        pid: The process's id.
    """
    if pid is None or not os.environ.get(DIRECTORY):
        return
    try:
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(pid)  # type: ignore[no-untyped-call]
    except ImportError:  # then nobody here counts with it
        return
    except OSError as error:
        logger.warning("the gauges of the ended worker process %d stay: %s", pid, error)
