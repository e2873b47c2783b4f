"""The health check of a container: asks a probe where the exporter in the same container listens."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest
from flowrra_exporter import healthcheck

from tests.exporter.conftest import Serve
from tests.exporter.contract import MinimalApp

WEB, PROBES = "FLOWRRA_EXPORTER_WEB_LISTEN_ADDRESS", "FLOWRRA_EXPORTER_PROBE_LISTEN_ADDRESS"


async def check(*arguments: str, **environment: str) -> int:
    return await asyncio.to_thread(healthcheck.main, list(arguments), environment)


async def test_it_is_met_while_the_probe_passes(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    port = urlsplit((await serve(MinimalApp())).url).port
    # What listens on all interfaces is asked on the loopback one.
    assert await check(**{WEB: f":{port}"}) == 0
    assert await check("/readyz", **{WEB: f"0.0.0.0:{port}"}) == 0
    assert capsys.readouterr().out == "ok\nok\n"


async def test_the_port_of_the_probes_is_preferred(serve: Serve) -> None:
    port = urlsplit((await serve(MinimalApp())).url).port
    assert await check(**{WEB: "127.0.0.1:1", PROBES: f"127.0.0.1:{port}"}) == 0


async def test_it_fails_with_the_reason_while_the_probe_fails(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    app = MinimalApp()
    app.health["components"]["app"] = {"healthy": False, "message": "the workers are dead"}
    service = await serve(app)
    assert await check("/readyz", **{WEB: f"127.0.0.1:{urlsplit(service.url).port}"}) == 1
    assert "the workers are dead" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ((), {WEB: "127.0.0.1:1"}, "no answer from http://127.0.0.1:1/livez"),
        ((), {WEB: "127.0.0.1:0"}, f"expected the exporter's port in {WEB}"),
        ((), {WEB: "nonsense"}, "expected host:port"),
        ((), {"FLOWRRA_EXPORTER_WEB_LISTEN_ADRESS": ":1"}, f"did you mean {WEB!r}?"),
        (("/metrics",), {}, "'/metrics' is no probe; expected one of /livez"),
    ],
)
async def test_what_it_cannot_ask(
    arguments: tuple[str, ...], environment: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await check(*arguments, **environment) == 1
    assert said in capsys.readouterr().out
