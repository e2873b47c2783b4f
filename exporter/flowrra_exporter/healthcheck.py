"""The health check of a container, for engines without probes: ``python3 -m flowrra_exporter.healthcheck [PATH]``.

Asks one probe of the exporter in the same container, by default the one that says whether a restart would help. It
finds the port where the exporter does: in the variables and the configuration file that they name. Flags it can't know.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping
from urllib.parse import quote

from flowrra_exporter.config_file import load_all_settings
from flowrra_exporter.errors import UsageError
from flowrra_exporter.paths import LIVEZ, PROBE_PATHS, is_probe
from flowrra_exporter.settings import Address

# The engine's own deadline is 30 s unless it is told otherwise; the probe's answer never takes as long as this.
_SECONDS = 3.0
_OF_THIS_HOST = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what may be listened on
_HINT = (
    "expected the exporter's port in FLOWRRA_EXPORTER_WEB_LISTEN_ADDRESS or, beside TLS or users, "
    "in FLOWRRA_EXPORTER_PROBE_LISTEN_ADDRESS"
)


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Asks, and prints what was answered; returns 0 if that was 200, else 1, as engines expect it."""
    path = arguments[0] if arguments else f"/{LIVEZ}"
    if not is_probe(path):
        return _unhealthy(f"{path!r:.200} is no probe; expected one of {', '.join(PROBE_PATHS)}")
    try:
        address = _address(environment)
    except UsageError as error:
        return _unhealthy(str(error))
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_SECONDS)
    try:
        connection.request("GET", quote(path), headers={"Accept": "text/plain"})
        answer = connection.getresponse()
        text = answer.read(4096).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return _unhealthy(f"no answer from http://{address}{path}: {error}; {_HINT}")
    finally:
        connection.close()
    if answer.status in (401, 403):
        return _unhealthy(f"http://{address}{path} answers {answer.status}; {_HINT}")
    print(text)  # noqa: T201 - the engine keeps it
    return 0 if answer.status == 200 else 1


def _address(environment: Mapping[str, str]) -> Address:
    settings = load_all_settings({}, environment)
    host, port = (settings.probe_listen_address or settings.web_listen_address)[0]
    if port == 0:
        raise UsageError(f"port 0 is any free one, which nobody can know; {_HINT}")
    return Address(_OF_THIS_HOST.get(host, host), port)


def _unhealthy(message: str) -> int:
    print(message)  # noqa: T201 - the engine keeps it
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
