"""Who mistypes something is told what may have been meant, and what can be chosen."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from flowrra_exporter import asgi, cli
from flowrra_exporter.options import ADDRESS
from flowrra_exporter.settings import (
    LOG_FORMATS,
    LOG_LEVELS,
    OTEL_PROTOCOLS,
    OTEL_TEMPORALITIES,
    Address,
)

from tests.exporter.commands import check, run_command
from tests.exporter.conftest import FREE_PORT, Run, Serve
from tests.exporter.contract import MinimalApp
from tests.exporter.web.test_console import Page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["chekc"], "'chekc' is no command; did you mean 'check'?"),
        (["--web.listen-adress=:1", "plain:app"], "--web.listen-address"),
        (["shop.py:app"], "did you mean 'shop:app'?"),
        (["./shop/tasks.py:app"], "did you mean 'shop.tasks:app'?"),
        (["shop/tasks"], "did you mean 'shop.tasks:app'?"),
        (["shop"], "did you mean 'shop:app'?"),
        (["plian:app"], "did you mean 'plain'?"),
        (["plain:ap"], "did you mean 'app'?"),
        (["plain:holder.ap"], "did you mean 'app'?"),
        (["--log.level=warn", "plain:app"], "expected one of debug, info, warning, error"),
    ],
)
def test_what_may_have_been_meant(arguments: list[str], hint: str) -> None:
    ended = run_command(*arguments, FLOWRRA_EXPORTER_WEB_LISTEN_ADDRESS=FREE_PORT)
    assert ended.status == 2
    assert hint in ended.err.splitlines()[-1]


@pytest.mark.parametrize("words", [["-h"], ["check", "-h"], ["--help"], ["check", "--help"]])
def test_help_has_the_choices(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert cli.main(words) == 0
    text = " ".join(capsys.readouterr().out.split())
    for choices in (LOG_LEVELS, LOG_FORMATS, OTEL_PROTOCOLS, OTEL_TEMPORALITIES):
        assert f"{', '.join(choices[:-1])} or {choices[-1]}" in text


OF_A_SERVICE = {
    "FLOWRRA_EXPORTER_SERVICE_HOST": "10.0.0.11",
    "FLOWRRA_EXPORTER_SERVICE_PORT": "9464",
    "FLOWRRA_EXPORTER_SERVICE_PORT_HTTP_METRICS": "9464",
    "FLOWRRA_EXPORTER_PORT": "tcp://10.0.0.11:9464",
    "FLOWRRA_EXPORTER_PORT_9464_TCP": "tcp://10.0.0.11:9464",
    "FLOWRRA_EXPORTER_PORT_9464_TCP_PROTO": "tcp",
    "FLOWRRA_EXPORTER_PORT_9464_TCP_PORT": "9464",
    "FLOWRRA_EXPORTER_PORT_9464_TCP_ADDR": "10.0.0.11",
    "FLOWRRA_EXPORTER_WEB_SERVICE_HOST": "10.0.0.12",
    "FLOWRRA_EXPORTER_WEB_PORT": "tcp://10.0.0.12:80",
}


@pytest.mark.slow
async def test_what_kubernetes_sets_for_a_service_of_that_name_is_no_mistake(run: Run) -> None:
    ended = await check("--strict", f"--web.listen-address={FREE_PORT}", "told:app", **OF_A_SERVICE)
    assert (ended.status, ended.err) == (0, "")
    assert "the variable" not in ended.out
    command = run(f"--web.listen-address={FREE_PORT}", "told:app", **OF_A_SERVICE)
    command.ready()
    assert "the variable" not in command.log


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        # The address of a Service is a link; this is somebody's wish for another port, which nobody would fulfil.
        ({"FLOWRRA_EXPORTER_PORT": "9000"}, "the variable FLOWRRA_EXPORTER_PORT is none of the exporter's"),
        (
            {"FLOWRRA_EXPORTER_WEB_LISTEN_ADRESS": ":9000"},
            "the variable FLOWRRA_EXPORTER_WEB_LISTEN_ADRESS is none of the exporter's; did you mean "
            "'FLOWRRA_EXPORTER_WEB_LISTEN_ADDRESS'?",
        ),
        (
            {"FLOWRRA_EXPORTER_MAX_SERIE": "9", "FLOWRRA_EXPORTER_OBSERVER": "true"},
            "did you mean 'FLOWRRA_EXPORTER_MAX_SERIES'? (and 1 more: flowrra-exporter check lists all)",
        ),
    ],
)
async def test_a_variable_that_is_mistyped_is_refused_at_the_start(variables: Mapping[str, str], said: str) -> None:
    ended = run_command(f"--web.listen-address={FREE_PORT}", "told:app", **variables)
    assert (ended.status, ended.out) == (2, "")
    assert said in ended.err
    checked = await check(f"--web.listen-address={FREE_PORT}", "told:app", **variables)
    assert checked.status == 1
    for name in variables:
        assert any(line.startswith("error") and name in line for line in checked.lines)


@pytest.mark.slow
def test_an_app_without_tasks_is_told_of(run: Run) -> None:
    command = run(f"--web.listen-address={FREE_PORT}", "plain:app")
    command.ready()
    assert "the app has no tasks" in command.log
    told = run(f"--web.listen-address={FREE_PORT}", "told:app")
    told.ready()
    assert "the app has no tasks" not in told.log


@pytest.mark.slow
def test_an_ipv4_address_can_be_written_as_ipv6(run: Run) -> None:
    assert ADDRESS.parse("[::ffff:127.0.0.1]:0") == Address("::ffff:127.0.0.1", 0)
    command = run("--web.listen-address=[::ffff:127.0.0.1]:0", "told:app")
    assert command.ready().startswith("http://127.0.0.1:")
    assert command.get("/livez").status == 200


async def test_all_links_of_the_page_hold_below_a_prefix(serve: Serve) -> None:
    """A proxy may serve the page at /flowrra/ and take that away; nobody tells us of it."""
    service = await serve(MinimalApp())
    for path in ("/", "/?refresh=off"):
        page = Page((await service.get(path, Accept="text/html")).text)
        links = [each["href"] or "" for each in page.attributes("a")]
        assert {"./metrics", "./livez"} < set(links)
        assert not [link for link in links if urlsplit(link).scheme or link.startswith("/")]


@pytest.mark.parametrize(
    ("root_path", "asked"),
    [("", "/internal"), ("/proxy", "/internal"), ("/proxy", "/proxy/internal"), ("/a/b", "/internal")],
)
@pytest.mark.filterwarnings("ignore:The `root_path` parameter")
async def test_fastapi_that_was_told_of_a_prefix(root_path: str, asked: str) -> None:
    """Whether the proxy takes the prefix away or not."""
    api = FastAPI(root_path=root_path)
    mounted = asgi.Application(MinimalApp())
    api.mount("/internal", mounted)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
        for path in ("/metrics", "/livez", "/livez/event_loop"):
            assert (await client.get(f"{asked}{path}")).status_code == 200, path
    await mounted.stop()
