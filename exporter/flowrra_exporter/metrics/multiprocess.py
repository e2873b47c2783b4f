"""prometheus_client's multi-process mode: metrics that several processes count, from the files that they write.

PROMETHEUS_MULTIPROC_DIR switches it on, for all processes that inherit it: the worker processes of CPU tasks are such.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from typing import Any

from prometheus_client import Counter, Gauge, Histogram, Metric, Summary, values
from prometheus_client.multiprocess import MultiProcessCollector

_IN_FILES = (Counter, Gauge, Histogram, Summary)


def is_on() -> bool:
    """Whether prometheus_client counts in files. It has decided that when it was imported."""
    return bool(getattr(values.ValueClass, "_multiprocess", False))


def is_in_files(collector: Any) -> bool:
    """Whether what this one counts stands in the files, then."""
    return isinstance(collector, _IN_FILES)


class MultiProcessFiles:
    """A collector of what all processes have counted. A file that can't be read costs only itself."""

    def collect(self) -> Iterable[Metric]:
        """The metrics of all processes.

        Raises:
            RuntimeError: A file can't be read; raised after what could be read was yielded. The message names the file.
        """
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"PROMETHEUS_MULTIPROC_DIR is {folder!r}; expected a directory")
        files = glob.glob(os.path.join(glob.escape(folder), "*.db"))
        try:
            yield from _merged(files)
        except Exception:  # noqa: BLE001 - a file that was cut off or overwritten raises anything
            unreadable = {file: reason for file in files if (reason := _unreadable(file))}
            yield from _merged([file for file in files if file not in unreadable])
            raise RuntimeError("; ".join(f"{file} can't be read: {why}" for file, why in unreadable.items())) from None


def _merged(files: list[str]) -> list[Metric]:
    return list(MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]


def _unreadable(file: str) -> str:
    try:
        _merged([file])
    except FileNotFoundError:  # its process has just ended
        return ""
    except Exception as error:  # noqa: BLE001 - see above
        return str(error) or type(error).__name__
    return ""
