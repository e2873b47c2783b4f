"""``python -m grafana`` writes the dashboards to grafana/dashboards."""

from __future__ import annotations

import argparse
from pathlib import Path

from deploy.prometheus.names import RUNBOOKS
from grafana.all import DASHBOARDS
from grafana.frame import render

FOLDER = Path(__file__).parent / "dashboards"


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(prog="python -m grafana", description=main.__doc__)
    parser.add_argument("--runbooks", default=RUNBOOKS, help="what the addresses of runbooks begin with (%(default)s)")
    parser.add_argument("--output", type=Path, default=FOLDER, help="the folder that they are written to")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for frame in DASHBOARDS:
        (options.output / f"{frame.uid}.json").write_text(render(frame, options.runbooks), encoding="utf-8")


if __name__ == "__main__":
    main()
