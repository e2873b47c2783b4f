"""An Alertmanager to ask."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

from tests.end_to_end.processes import get, tool, wait_for
from tests.support.servers import free_port

Alert = tuple[str, dict[str, str]]


class Alertmanager:
    """A real one.

    Args:
        configuration: Its file.
        folder: Where its data and log go.
    """

    def __init__(self, configuration: Path, folder: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    tool("prometheus-alertmanager"),
                    f"--config.file={configuration}",
                    f"--storage.path={folder / 'data'}",
                    f"--web.listen-address={self.address}",
                    "--cluster.listen-address=",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_for(self._is_ready, 20, "Alertmanager is ready")

    def _is_ready(self) -> bool | None:
        try:
            return bool(get(f"{self.url}/-/ready"))
        except OSError:
            return None

    def fire(self, *alerts: Alert) -> None:
        """Tell it of alerts that fire."""
        body = [{"labels": {"alertname": name, "severity": "critical", **labels}} for name, labels in alerts]
        request = urllib.request.Request(
            f"{self.url}/api/v2/alerts", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=10).close()

    def held_back(self, **labels: str) -> set[str]:
        """The names of the alerts with these labels that nobody is told of, as another one fires."""
        filters = urlencode([("filter", f'{label}="{value}"') for label, value in labels.items()])
        found = json.loads(get(f"{self.url}/api/v2/alerts?{filters}"))
        return {alert["labels"]["alertname"] for alert in found if alert["status"]["inhibitedBy"]}

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(timeout=20)
