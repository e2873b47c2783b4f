"""The task queues on Redis that are compared: their programs in ``sides/``, which say how each is set up, and the
packages that those need."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from benchmarks.harness import Report, Side, Unavailable, node_peer, peer

_CLIENT = "redis[hiredis]==8.1.0"


@dataclass(frozen=True)
class Engine:
    """A task queue.

    Attributes:
        name: As it is printed.
        key: As it is asked for by ``--only``.
        program: In ``sides/``, as ``redis_engine.py`` takes it.
        packages: Python's, in an environment of their own; this project's environment if there are none.
        node_packages: Node's, in a folder of their own.
    """

    name: str
    key: str
    program: str
    packages: tuple[str, ...] = ()
    node_packages: tuple[str, ...] = ()

    @property
    def release(self) -> str:
        """The package and its version; nothing for what is part of this project."""
        return next(iter(self.packages + self.node_packages), "").replace("[redis]", "")


FLOWRRA = Engine("flowrra", "flowrra", "redis_flowrra")
PUBLISHED = Engine("flowrra 0.1.8", "published", "redis_flowrra", ("flowrra[redis]==0.1.8", _CLIENT))
BULLMQ = Engine("BullMQ", "bullmq", "redis_bullmq.cjs", node_packages=("bullmq@5.81.5",))
SAQ = Engine("SAQ", "saq", "redis_saq", ("saq[redis]==0.26.4", "redis[hiredis]", "typing_extensions"))
TASKIQ = Engine("taskiq, stream", "taskiq", "redis_taskiq", ("taskiq-redis==1.2.4", _CLIENT))
STREAQ = Engine("streaQ", "streaq", "redis_streaq", ("streaq==7.2.0", _CLIENT))
BARE = Engine("bare loop", "bare", "redis_bare")
ENGINES = (FLOWRRA, PUBLISHED, BULLMQ, SAQ, TASKIQ, STREAQ, BARE)


@dataclass(frozen=True)
class Installed:
    """An engine that can run here.

    Attributes:
        engine: It.
        python: The interpreter.
        modules: Where Node finds its packages; empty if it isn't for Node.
    """

    engine: Engine
    python: str = sys.executable
    modules: str = ""

    def side(self, url: str, tasks: int, *options: str) -> Side:
        """What measures it.

        Args:
            url: The server.
            tasks: How many.
            options: What else ``redis_engine.py`` takes.
        """
        found = ("--modules", self.modules) if self.modules else ()
        command = ("redis_engine.py", self.engine.program, url, str(tasks), *options, *found)
        return Side(self.engine.name, command, self.python)


def install(report: Report, engines: Sequence[Engine], only: Collection[str] = ()) -> dict[Engine, Installed]:
    """Those that can run here, in that order. Which versions they are is printed, and why one isn't there.

    Args:
        report: Where to.
        engines: What is compared.
        only: The keys of what is wanted; all by default.
    """
    installed: dict[Engine, Installed] = {}
    reasons = []
    for engine in engines:
        if only and engine.key not in only:
            continue
        try:
            installed[engine] = _install(engine)
        except Unavailable as reason:
            reasons.append(f"skipped   {engine.name}: {reason}")
    releases = [engine.release for engine in installed if engine.release]
    report.line(f"peers     {', '.join(releases) or 'none'}")
    for reason in reasons:
        report.line(reason)
    report.line()
    return installed


def _install(engine: Engine) -> Installed:
    if engine.node_packages:
        return Installed(engine, modules=node_peer(*engine.node_packages))
    return Installed(engine, peer(*engine.packages)) if engine.packages else Installed(engine)
