"""`python -m benchmarks [NAME …]`: run all benchmarks or the named ones, print their figures, and keep the output in
`docs/benchmarks/` and `docs/benchmarks.md`. No figure makes a run fail."""

from __future__ import annotations

import argparse
import inspect

from benchmarks import (
    against,
    cpu,
    distributed,
    exposition,
    fleet,
    history,
    in_memory,
    memory,
    page,
    partitions,
    scheduler,
    scrape,
    slots,
    telemetry,
)
from benchmarks.engines import ENGINES

BENCHMARKS = {
    "in_memory": in_memory,
    "distributed": distributed,
    "slots": slots,
    "fleet": fleet,
    "partitions": partitions,
    "cpu": cpu,
    "telemetry": telemetry,
    "exposition": exposition,
    "scrape": scrape,
    "memory": memory,
    "history": history,
    "scheduler": scheduler,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--only", metavar="PEERS", help="run only these, such as flowrra,bullmq; nothing is kept then")
    parser.add_argument("--against", metavar="REV", help="compare the named ones with another commit, in turns")
    arguments = parser.parse_args()
    names = arguments.names or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if arguments.against is not None:
        for name in names:
            if not hasattr(BENCHMARKS[name], "paired"):
                parser.error(f"{name} can't be compared with another commit")
            against.run(name, BENCHMARKS[name], arguments.against).save()
        return
    if arguments.only is not None:
        _run_only(parser, names, arguments.only.split(","))
        return
    for name in names:
        BENCHMARKS[name].run().save()
        print("\n")
        page.write(BENCHMARKS)


def _run_only(parser: argparse.ArgumentParser, names: list[str], peers: list[str]) -> None:
    unknown = set(peers) - {engine.key for engine in ENGINES}
    if unknown:
        known = ", ".join(engine.key for engine in ENGINES)
        parser.error(f"no peer is called {', '.join(sorted(unknown))}; there are {known}")
    for name in names:
        if "only" not in inspect.signature(BENCHMARKS[name].run).parameters:
            parser.error(f"{name} has no peers to choose from")
    for name in names:
        BENCHMARKS[name].run(only=peers)


if __name__ == "__main__":
    main()
