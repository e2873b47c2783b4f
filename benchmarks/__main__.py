"""`python -m benchmarks [NAME …]`: run all benchmarks or the named ones, print their figures, and keep the output in
`docs/benchmarks/` and `docs/benchmarks.md`. No figure makes a run fail."""

from __future__ import annotations

import argparse

from benchmarks import against, cpu, distributed, exposition, in_memory, memory, page, scheduler, scrape, telemetry

BENCHMARKS = {
    "in_memory": in_memory,
    "distributed": distributed,
    "cpu": cpu,
    "telemetry": telemetry,
    "exposition": exposition,
    "scrape": scrape,
    "memory": memory,
    "scheduler": scheduler,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; all by default")
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
    for name in names:
        BENCHMARKS[name].run().save()
        print("\n")
        page.write(BENCHMARKS)


if __name__ == "__main__":
    main()
