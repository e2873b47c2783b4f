"""``python -m deploy.prometheus`` writes the rules, and into the runbooks what they say.

With ``--scale 60`` a day lasts for 24 minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from deploy.prometheus import runbooks
from deploy.prometheus.files import FOLDER, render
from deploy.prometheus.names import DASHBOARDS, RUNBOOKS
from deploy.prometheus.rule import Links
from deploy.prometheus.scaled import Scaled


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser("python -m deploy.prometheus", description="Writes the rules for Prometheus.")
    parser.add_argument("--output", type=Path, default=FOLDER, help="the folder to write to (default: %(default)s)")
    parser.add_argument("--scale", type=_scale, default=1.0, help="by what durations are divided (default: 1)")
    parser.add_argument("--runbooks", default=RUNBOOKS, help="what links to runbooks begin with (default: %(default)s)")
    parser.add_argument("--dashboards", default=DASHBOARDS, help="... to dashboards (default: %(default)s)")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    links = Links(given.runbooks.rstrip("/"), given.dashboards.rstrip("/"))
    for name, text in render(Scaled(given.scale), links).items():
        (given.output / name).write_text(text, encoding="utf-8")
    if given.output == FOLDER:
        for path, text in runbooks.render().items():
            path.write_text(text, encoding="utf-8")


def _scale(text: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    if not 1 <= scale <= 600:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a number from 1 to 600")
    return scale


if __name__ == "__main__":
    main()
