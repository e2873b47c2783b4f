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
from grafana.all import DASHBOARDS as FRAMES
from grafana.frame import render as draw


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser("python -m deploy.prometheus", description="Writes the rules for Prometheus.")
    parser.add_argument("--output", type=Path, default=FOLDER, help="the folder to write to (default: %(default)s)")
    parser.add_argument("--scale", type=_scale, default=1.0, help="by what durations are divided (default: 1)")
    parser.add_argument("--runbooks", default=RUNBOOKS, help="what links to runbooks begin with (default: %(default)s)")
    parser.add_argument("--dashboards", default=DASHBOARDS, help="... to dashboards (default: %(default)s)")
    given = parser.parse_args()
    links = Links(given.runbooks.rstrip("/"), given.dashboards.rstrip("/"))
    if given.output.resolve() == FOLDER:
        _write(FOLDER, render(Scaled(given.scale), links))
        for path, text in runbooks.render().items():
            path.write_text(text, encoding="utf-8")
    else:
        _write(given.output, render(Scaled(given.scale), links, "dashboards"))
        drawn = {f"{each.uid}.json": draw(each, links.runbooks) for each in FRAMES}
        # The mixin has them, and they have links to runbooks, too.
        _write(given.output / "dashboards", drawn)


def _write(folder: Path, texts: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


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
