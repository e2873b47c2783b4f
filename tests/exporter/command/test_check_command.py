"""The check: what it says of settings, apps and endpoints, good and bad, and its exit status."""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from flowrra import Flowrra
from tests.exporter.commands import Ended, check
from tests.exporter.conftest import FREE_PORT, Run, Serve
from tests.exporter.contract import ContractApp, broken
from tests.support.servers import ValkeyServer

TEXT = "text/plain; version=0.0.4; charset=utf-8"
GOOD = "# HELP up_seconds Since the start.\n# TYPE up_seconds gauge\nup_seconds 1\n"
LISTEN = f"--web.listen-address={FREE_PORT}"


def has(ended: Ended, *lines: str) -> None:
    """Each of these is, word by word, the beginning of a line."""
    for line in lines:
        assert any(printed.startswith(line) for printed in ended.lines), f"no {line!r} in:\n{ended.out}{ended.err}"


def bad_lines(ended: Ended) -> list[str]:
    return [line for line in ended.lines if line.startswith(("error ", "warning "))]


# The command.


@pytest.mark.slow
async def test_without_anything_to_check_it_is_a_mistake() -> None:
    ended = await check()
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == "flowrra-exporter: nothing to check; expected MODULE:APP, --url=URL or --config.file=FILE\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--no.such"], "No such option"),
        (["--url=ftp://host"], "--url: got 'ftp://…'; expected a URL such as"),
        (["--url=ftp://user:s3cret@host"], "--url: got 'ftp://…'; expected a URL such as"),
        (["--url=http://host", "--timeout=0"], "--timeout: got '0'; expected a number of seconds above 0"),
    ],
)
async def test_a_mistake_in_the_command_is_status_2(arguments: list[str], reason: str) -> None:
    ended = await check(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("flowrra-exporter: ")
    assert reason in ended.err


async def test_help_names_what_is_its_own() -> None:
    ended = await check("--help")
    assert ended.status == 0
    for word in ("--url", "--timeout", "--strict", "--config.file", "--max-series", "MODULE:APP"):
        assert word in ended.out


@pytest.mark.slow
async def test_an_app_in_a_module_called_check_is_still_served(run: Run, tmp_path: Path) -> None:
    (tmp_path / "check.py").write_text("from plain import make\n\napp = make()\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = run(LISTEN, "check:app", PYTHONPATH=path)
    command.ready()
    assert command.get().status == 200
    has(await check("check:app", LISTEN, PYTHONPATH=path), "ok app: check:app can be imported")


# The configuration.


@pytest.mark.slow
async def test_all_mistakes_in_the_settings_are_named_not_just_the_first(tmp_path: Path) -> None:
    file = tmp_path / "flowrra.yaml"
    file.write_text("max-series: 0\nnonsense: 1\n")
    ended = await check(f"--config.file={file}", "--log.level=loud", LISTEN, FLOWRRA_EXPORTER_SHUTDOWN_TIMEOUT="soon")
    assert ended.status == 1
    has(
        ended,
        f"error configuration: {file}:1: max-series: got '0'; expected a whole number above 0",
        f"error configuration: {file}:2: 'nonsense': no such key",
        "error configuration: --log.level: got 'loud'; expected one of debug",
        "error configuration: FLOWRRA_EXPORTER_SHUTDOWN_TIMEOUT: got 'soon'; expected a number of seconds",
        "check failed: 4 errors, 0 warnings",
    )


@pytest.mark.slow
async def test_a_good_file_passes(tmp_path: Path) -> None:
    file = tmp_path / "flowrra.yaml"
    file.write_text(f"web.listen-address: {FREE_PORT}\nmax-series: 5\n")
    ended = await check(f"--config.file={file}", "--strict")
    assert ended.status == 0
    has(ended, f"ok configuration: {file} is read: settings in it: 2", f"ok configuration: {FREE_PORT} can be listened")


@pytest.mark.slow
async def test_a_variable_that_is_none_of_the_exporters_is_an_error() -> None:
    ended = await check("plain:app", LISTEN, FLOWRRA_EXPORTER_MAX_SERIE="5")
    assert ended.status == 1
    has(ended, "error configuration: the variable FLOWRRA_EXPORTER_MAX_SERIE is none of the exporter's")


@pytest.mark.slow
async def test_an_address_in_use_is_a_warning_and_an_unknown_host_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = await check("plain:make", f"--web.listen-address={address}")
    assert ended.status == 0
    has(ended, f"warning configuration: cannot listen on {address}: Address already in use")
    ended = await check("plain:make", "--web.listen-address=no-such-host.invalid:1")
    assert ended.status == 1
    has(ended, "error configuration: cannot listen on no-such-host.invalid:1: ")


@pytest.mark.slow
async def test_settings_that_contradict_each_other_are_an_error() -> None:
    ended = await check("plain:make", LISTEN, "--web.show-task-data")
    assert ended.status == 1
    has(ended, "error configuration: --web.show-task-data is for clients that have authenticated")


# The app.


@pytest.mark.slow
async def test_a_good_app_passes_without_being_started() -> None:
    ended = await check("told:app", LISTEN, "--strict")
    assert (ended.status, ended.err) == (0, "")
    assert bad_lines(ended) == []
    has(
        ended,
        "ok app: told:app can be imported",
        "ok app: it is an app: flowrra.app.Flowrra",
        "ok Management API: get_task_stats() answers",
        "ok tasks: 2 are registered; 118 series of 20000",
        "ok text format: prometheus_client parses it, and each series is there once",
        "ok OpenMetrics: prometheus_client parses it",
        "ok collectors: all 9 succeed",
        "check passed: 0 errors, 0 warnings",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("plain", "error app: 'plain' names no app; expected 'module:attribute'"),
        ("nowhere:app", "error app: there is no module 'nowhere'"),
        ("raises:app", "error app: importing 'raises' failed: RuntimeError: broken module"),
        ("plain:nothing", "error app: module 'plain' has no attribute 'nothing'"),
        ("plain:number", "error app: 'plain:number' is no app but 17"),
        ("plain:fail", "error app: calling 'plain:fail' failed: ValueError: no way"),
    ],
)
async def test_what_is_no_app_is_said(target: str, line: str) -> None:
    ended = await check(target, LISTEN)
    assert (ended.status, ended.err) == (1, "")
    has(ended, line)


@pytest.mark.slow
async def test_an_app_that_answers_for_itself_lacks_some_metrics() -> None:
    ended = await check("plain:duck", LISTEN)
    assert ended.status == 0
    has(ended, "ok Management API: get_stats() answers", "warning Management API: it has no get_task_stats()")
    assert (await check("plain:duck", LISTEN, "--strict")).status == 1


APP = """
import asyncio

from flowrra import Flowrra
from flowrra.management import FlowrraManager

app = Flowrra()
for number in range(5):

    async def task(): ...

    app.task(f"task-{number}")(task)


class Broken(FlowrraManager):
    async def get_queue_stats(self):
        raise ConnectionError("no redis://user:s3cret@host\\x1b[31m\\nerror    nothing: at all")

    list_queues = get_queue_stats

    async def get_runtime_stats(self):
        await asyncio.Event().wait()


class Nonsense(FlowrraManager):
    async def get_task_stats(self):
        return {"a": {"executor": "io", "run_duration": 17}}


broken = Broken(app)
nonsense = Nonsense(app)
empty = Flowrra()
"""


@pytest.fixture
def apps(tmp_path: Path) -> Path:
    (tmp_path / "apps.py").write_text(APP)
    return tmp_path


@pytest.mark.slow
async def test_a_budget_that_does_not_hold_all_tasks_is_an_error_that_says_what_would(apps: Path) -> None:
    ended = await check("apps:app", LISTEN, "--max-series=200", folder=apps)
    assert ended.status == 1
    has(ended, "error tasks: 2 of 5 have no series of their own, task-3 for one; expected --max-series=295 or more")
    assert (await check("apps:app", LISTEN, "--max-series=300", folder=apps)).status == 0


@pytest.mark.slow
async def test_a_management_api_that_fails_or_hangs_is_said_and_steers_nothing(apps: Path) -> None:
    ended = await check("apps:broken", LISTEN, "--timeout=0.5", folder=apps)
    assert ended.status == 1
    has(
        ended,
        r"error Management API: get_queue_stats() fails: ConnectionError: no redis://***@host\x1b[31m error nothing",
        "error Management API: get_runtime_stats() doesn't answer within 0.5 s",
        "error collectors: queue fails",
        "error collectors: runtime fails",
        "ok tasks: 5 are registered",
    )
    assert "s3cret" not in ended.out
    assert "\x1b" not in ended.out


@pytest.mark.slow
async def test_task_figures_that_can_not_be_read_are_said(apps: Path) -> None:
    ended = await check("apps:nonsense", LISTEN, folder=apps)
    assert ended.status == 1
    has(ended, "error Management API: get_task_stats() answers what can't be read: TypeError: run_duration is 17")
    has(ended, "error collectors: tasks fails")


REGISTERING = """
from flowrra import Flowrra
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily

app = Flowrra()


@app.task(name="work")
async def work(): ...


class Shop:
    def describe(self):
        return []

    def collect(self):
        family = GaugeMetricFamily("shop_orders", "Orders.", labels=["town"])
        family.add_metric(["Trier"], None)
        yield family
        raise RuntimeError("closed")


REGISTRY.register(Shop())
"""


@pytest.mark.slow
async def test_registered_metrics_that_can_not_be_served_are_named(apps: Path, serve: Serve) -> None:
    (apps / "registering.py").write_text(REGISTERING)
    ended = await check("registering:app", LISTEN, folder=apps)
    assert ended.status == 1
    has(
        ended,
        "error collectors: the registered Shop fails: what it hasn't yielded is absent",
        "warning collectors: 1 series of the registered Shop are left out: value",
        "warning collectors: of the registered metric 'shop_orders' (Shop) something is left out (value): a value",
    )


@pytest.mark.slow
async def test_an_app_without_tasks_is_a_warning(apps: Path) -> None:
    has(await check("apps:empty", LISTEN, folder=apps), "warning tasks: none is registered")


@pytest.mark.slow
@pytest.mark.parametrize("mode", [(), ("--observe",)], ids=["app", "observer"])
async def test_a_broker_that_is_unfit_is_a_warning_that_says_what_to_do(mode: tuple[str, ...]) -> None:
    with ValkeyServer(appendonly="yes") as server, server.client() as client:
        url = f"redis://127.0.0.1:{server.port}/0"
        has(await check("shared:make", LISTEN, *mode, SHARED_URL=url), "ok broker: its server is fit to keep tasks")
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        ended = await check("shared:make", LISTEN, *mode, SHARED_URL=url)
        strict = await check("shared:make", LISTEN, "--strict", *mode, SHARED_URL=url)

    assert (ended.status, strict.status) == (0, 1)
    has(ended, "warning broker: its server is unfit to keep tasks (eviction): answering, but unfit")
    assert "set noeviction" in ended.out


@pytest.mark.slow
async def test_an_endpoint_whose_broker_is_unfit_is_a_warning(serve: Serve) -> None:
    app = ContractApp()
    service = await serve(app)
    has(await check(f"--url={service.url}/metrics"), "warning broker: its server is unfit to keep tasks: eviction; see")
    app.queues["io"]["unfit"] = {"eviction": False}
    has(await check(f"--url={service.url}/metrics"), "ok broker: its server is fit to keep tasks")
    app.queues["io"]["unfit"] = None
    assert "broker:" not in (await check(f"--url={service.url}/metrics")).out


@pytest.mark.slow
async def test_bounds_that_an_app_can_not_take_are_said() -> None:
    ended = await check("plain:duck", LISTEN, "--histogram.loop-lag-bounds=1")
    assert ended.status == 1
    has(ended, "error app: it can't be served: --histogram.loop-lag-bounds: this app has no set_histogram_bounds()")


@pytest.mark.slow
async def test_threads_of_an_app_do_not_keep_the_check() -> None:
    ended = await check("lingers:duck", LISTEN)
    assert ended.status == 0
    has(ended, "warning app: leaves threads that keep the process from ending")
    assert ended.lines[-1].startswith("check passed")


# A good endpoint.


@pytest.mark.slow
async def test_a_good_endpoint_passes(serve: Serve) -> None:
    app = Flowrra()

    @app.task()
    async def greet() -> None: ...

    async with app:
        service = await serve(app)
        await app.wait_for_result(await app.submit(greet), timeout=5)
        ended = await check(f"--url={service.url}/metrics", "--strict")
    assert (ended.status, ended.err) == (0, "")
    assert bad_lines(ended) == []
    has(
        ended,
        f"ok endpoint: {service.url}/metrics answers 200",
        f"ok text format: Content-Type {TEXT}",
        "ok endpoint: a scrape has ",
        "ok text format: prometheus_client parses it",
        "ok names: ",
        "ok collectors: all 9 succeed",
        "ok OpenMetrics: Content-Type application/openmetrics-text; version=1.0.0",
        "ok OpenMetrics: prometheus_client parses it",
        *(f"ok /{probe}: answers 200" for probe in ("livez", "readyz", "startupz", "healthz")),
    )


@pytest.mark.slow
async def test_the_number_of_series_is_that_of_the_scrape(serve: Serve) -> None:
    service = await serve(ContractApp())
    ended = await check(f"--url={service.url}/metrics")
    found = re.search(r"a scrape has (\d+) series, (\d+) bytes \((\d+) as gzip\), and takes [\d.]+ s", ended.out)
    assert found is not None
    scrape = await service.get()
    assert int(found[1]) == len(scrape.samples)
    assert abs(int(found[2]) - len(scrape.body)) < 500
    assert int(found[3]) < int(found[2])


@pytest.mark.slow
async def test_a_collector_that_fails_is_named_and_probes_say_why(serve: Serve) -> None:
    app = ContractApp()
    app.before["list_queues"] = broken
    app.health["healthy"] = False
    app.health["components"]["io_executor"] = {"healthy": False, "message": "no worker is alive"}
    service = await serve(app)
    ended = await check(f"--url={service.url}/metrics")
    assert ended.status == 1
    has(
        ended,
        "error collectors: queue fails: its metrics are absent",
        "error /readyz: answers 503: io_executor failed: no worker is alive",
        "error /healthz: answers 503: io_executor failed: no worker is alive",
        "ok /livez: answers 200",
    )


@pytest.mark.slow
async def test_series_that_were_dropped_are_said(serve: Serve) -> None:
    ended = await check(f"--url={(await serve(ContractApp(), max_series=1)).url}/metrics")
    has(ended, "warning collectors: ")
    assert "series are left out: --max-series is reached, or they can't be served" in ended.out


# Bad ones.

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Hostile = Callable[[Handler], Awaitable[str]]


@pytest.fixture
async def hostile() -> AsyncIterator[Hostile]:
    """``await hostile(handler)`` answers every path by the handler; returns the URL of its metrics."""
    runners: list[web.AppRunner] = []

    async def start(handler: Handler) -> str:
        application = web.Application()
        application.router.add_get("/{path:.*}", handler)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"

    yield start
    for runner in runners:
        await runner.cleanup()


def answers(body: str | bytes, content_type: str | None = TEXT, status: int = 200, **headers: str) -> Handler:
    """A handler that answers its metrics whatever is asked for, and has no probes."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(request: web.Request) -> web.Response:
        if request.path != "/metrics":
            return web.Response(status=404)
        content = body.encode() if isinstance(body, str) else body
        response = web.Response(body=content, status=status, headers=given)
        if content_type is None:
            response.headers["Content-Type"] = ""
        else:
            response.headers["Content-Type"] = content_type
        return response

    return answer


async def lint(hostile: Hostile, body: str) -> Ended:
    return await check(f"--url={await hostile(answers(body))}")


@pytest.mark.slow
async def test_an_endpoint_of_another_program_has_warnings_only(hostile: Hostile) -> None:
    ended = await lint(hostile, GOOD)
    assert ended.status == 0
    assert bad_lines(ended) == [
        "warning collectors: there is no flowrra_collector_success: is this the Flowrra exporter?",
        f"warning OpenMetrics: isn't served: the Content-Type is {TEXT} whatever is asked for",
        *(f"warning /{probe}: isn't served here" for probe in ("livez", "readyz", "startupz", "healthz")),
    ]


@pytest.mark.slow
async def test_nobody_there_is_one_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ended = await check(f"--url=http://127.0.0.1:{port}/metrics")
    assert ended.status == 1
    assert bad_lines(ended) == [
        f"error endpoint: http://127.0.0.1:{port}/metrics can't be scraped: cannot connect: Connection refused"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("", "error text format: there are no metrics"),
        (GOOD + "<html>\n", "error text format: prometheus_client can't parse it, up to line 4: invalid metric name"),
        ("a one\n", "error text format: prometheus_client can't parse it, up to line 1: could not convert"),
        ("a 1_000\n", "error text format: prometheus_client can't parse it, up to line 1: Invalid value"),
        ("a{b=1} 1\n", "error text format: prometheus_client can't parse it, up to line 1: Invalid labels"),
        ('a{__b="x"} 1\n', "error text format: prometheus_client can't parse it, up to line 1: Invalid labels"),
        ("# TYPE a number\na 1\n", "error text format: prometheus_client can't parse it, up to line 3: Invalid metric"),
        ("# TYPE 1 gauge\na 1\n", "error text format: prometheus_client can't parse it, up to line 1: ValueError"),
        ("a 1", "error text format: the last line doesn't end with a line feed"),
        ('a{b="1"} 1\na{b="1"} 2\n', 'error text format: a{b="1"} is there more than once'),
        ('a{b="1",c="2"} 1\na{c="2",b="1"} 2\n', 'error text format: a{c="2",b="1"} is there more than once'),
        ('a 1\nb 1\na{b="1"} 1\n', "error text format: a goes on after other metrics"),
        ("a 1\n", "warning names: a has no HELP"),
        ("a 1\n", "warning names: a has no TYPE"),
        ("# TYPE a_total gauge\na_total 1\n", "warning names: a_total is of type gauge; expected _total of a counter"),
        ("# TYPE a_count gauge\na_count 1\n", "warning names: a_count is of type gauge; expected _count of"),
        ("a_milliseconds 1\n", "warning names: a_milliseconds is in milliseconds; expected the base unit, seconds"),
        ("# TYPE a_ms_total counter\na_ms_total 1\n", "warning names: a_ms_total is in ms; expected the base unit"),
        ("# TYPE a_gauge gauge\na_gauge 1\n", "warning names: a_gauge has its type in its name"),
        ("aB 1\n", "warning names: aB is in camelCase"),
        ("a:b 1\n", "warning names: a:b has a colon"),
        ('a{job="x"} 1\n', "warning names: a has the label job, which is the scraped target's"),
        ('a{bC="x"} 1\n', "warning names: a has the label bC; expected snake_case"),
        ('# TYPE a gauge\na{le="1"} 1\n', "warning names: a has the label le; expected it of a histogram only"),
        ("a 1 1700000000000\n", "warning names: a has timestamps"),
    ],
)
async def test_what_is_wrong_with_metrics_is_said(hostile: Hostile, body: str, line: str) -> None:
    ended = await lint(hostile, body)
    has(ended, line)
    assert ended.status == int(line.startswith("error"))
    assert ended.err == ""


@pytest.mark.slow
async def test_of_many_mistakes_of_a_kind_a_few_are_shown_and_all_are_counted(hostile: Hostile) -> None:
    ended = await lint(hostile, GOOD + "up_seconds 1\n" * 1000)
    assert ended.out.count("up_seconds is there more than once") == 5
    has(ended, "error text format: duplicate series: 995 more")


@pytest.mark.slow
async def test_what_a_server_sends_makes_no_lines_and_steers_no_terminal(hostile: Hostile) -> None:
    ended = await lint(hostile, "\x1b[2J\x9b31m\x00 " + "x" * 100_000 + "\n\u202eb 1\n")
    assert ended.status == 1
    assert not re.search(r"[^\n -~…]", ended.out)
    assert max(map(len, ended.lines)) < 500


@pytest.mark.slow
async def test_a_hostile_line_costs_no_more_than_its_length(hostile: Hostile) -> None:
    labels = ",".join(f'l{number}="x"' for number in range(20_000))
    ended = await lint(hostile, f"a {'1' * 1_000_000}x\na{{{' ' * 1_000_000}\na{{{labels}}} 1\n")  # or it times out
    assert ended.status == 1
    has(ended, "error text format: prometheus_client can't parse it, up to line 1: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("handler", "line"),
    [
        (answers(GOOD, status=500), "error endpoint: {url} answers 500; expected 200"),
        (answers(GOOD, status=401), "error endpoint: {url} answers 401: it wants to know who asks"),
        (answers(GOOD, "text/html"), "error text format: Content-Type text/html; expected text/plain;version=0.0.4"),
        (answers(GOOD, None), "error text format: no Content-Type; expected text/plain;version=0.0.4"),
        (answers(GOOD, "text/plain"), "warning text format: Content-Type text/plain; expected version=0.0.4"),
        (
            answers(GOOD, f"{TEXT[:-5]}latin-1"),
            "error text format: Content-Type text/plain; version=0.0.4; charset=lat",
        ),
        (answers(b"a 1\n\xff\n"), "error text format: byte 4 of the body is not UTF-8"),
        (answers(GOOD, Content_Encoding="gzip"), "error endpoint: {url} can't be scraped: the body is not gzip"),
        (answers(GOOD, Content_Encoding="br"), "error endpoint: {url} can't be scraped: Content-Encoding br"),
        (
            answers(gzip.compress(GOOD.encode())[:-9], Content_Encoding="gzip"),
            "error endpoint: {url} can't be scraped: the body ends in the middle of its gzip stream",
        ),
        (
            answers(gzip.compress(b"\n" * 70_000_000), Content_Encoding="gzip"),
            "error endpoint: {url} can't be scraped: the answer is larger than 64000000 bytes, once decompressed",
        ),
    ],
)
async def test_an_answer_that_is_not_what_it_says_is_an_error(hostile: Hostile, handler: Handler, line: str) -> None:
    url = await hostile(handler)
    ended = await check(f"--url={url}")
    has(ended, line.format(url=url))
    assert ended.status == int(line.startswith("error"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("openmetrics", "reason"),
    [
        ("# TYPE a gauge\na 1\n", "Missing # EOF at end"),
        ("# TYPE a counter\na 1\n# EOF\n", "prometheus_client can't parse it: "),
        ("# TYPE a gauge\na 1\n# EOF\nb 1\n", "Received line after # EOF"),
        ('# TYPE a gauge\na{b="1"} 1\na{b="1"} 2\n# EOF\n', "series that are there already: 1 of 2"),
        ("# TYPE a counter\na_total -1\n# EOF\n", "Counter-like samples cannot be negative"),
        ('# TYPE h histogram\nh_bucket{le="1"} 1\n# EOF\n', "+Inf bucket missing"),
    ],
)
async def test_bad_openmetrics_is_an_error_even_if_the_text_is_good(
    hostile: Hostile, openmetrics: str, reason: str
) -> None:
    async def answer(request: web.Request) -> web.Response:
        if "openmetrics" in request.headers["Accept"]:
            return await answers(openmetrics, "application/openmetrics-text; version=1.0.0; charset=utf-8")(request)
        return await answers(GOOD)(request)

    ended = await check(f"--url={await hostile(answer)}")
    assert ended.status == 1
    (line,) = [line for line in ended.lines if line.startswith("error ")]
    assert line.startswith("error OpenMetrics: ")
    assert reason in line


@pytest.mark.slow
async def test_a_server_that_says_nothing_costs_no_more_than_the_timeout(hostile: Hostile) -> None:
    async def never(_request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    ended = await check(f"--url={await hostile(never)}", "--timeout=0.3")
    assert ended.status == 1
    assert "can't be scraped: no complete answer within 0.3 s" in ended.out
    has(ended, "error /livez: no complete answer within 0.3 s")


@pytest.mark.slow
async def test_a_server_that_hangs_up_is_an_error(hostile: Hostile) -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": TEXT})
        await response.prepare(request)
        await response.write(b"a 1\n")
        assert request.transport is not None
        request.transport.abort()
        return response

    ended = await check(f"--url={await hostile(hang_up)}")
    assert ended.status == 1
    assert re.search(r"can't be scraped: Client\w+Error: ", ended.out)


@pytest.mark.slow
async def test_a_redirect_is_followed_and_said(hostile: Hostile) -> None:
    target = await hostile(answers(GOOD))

    async def redirect(_request: web.Request) -> web.Response:
        raise web.HTTPFound(target)

    ended = await check(f"--url={await hostile(redirect)}")
    has(ended, f"warning endpoint: it redirects to {target}")

    async def round_and_round(request: web.Request) -> web.Response:
        raise web.HTTPFound(request.path)

    ended = await check(f"--url={await hostile(round_and_round)}")
    assert ended.status == 1
    assert "can't be scraped: TooManyRedirects" in ended.out


@pytest.mark.slow
async def test_credentials_in_the_url_are_sent_and_never_printed(hostile: Hostile) -> None:
    async def private(request: web.Request) -> web.Response:
        known = request.headers.get("Authorization") == "Basic dXNlcjpzM2NyZXQ="
        return await answers(GOOD if known else "", status=200 if known else 401)(request)

    url = await hostile(private)
    ended = await check(f"--url={url.replace('://', '://user:s3cret@')}?token=s3cret")
    assert ended.status == 0
    assert "s3cret" not in ended.out + ended.err
    has(ended, f"ok endpoint: {url} answers 200")
    ended = await check(f"--url={url.replace('://', '://user:another@')}")
    has(ended, f"error endpoint: {url} answers 401: it doesn't take the user and password of the URL; expected 200")


@pytest.mark.slow
async def test_probes_are_found_beside_metrics_below_a_prefix_or_at_the_root(hostile: Hostile) -> None:
    async def mounted(request: web.Request) -> web.Response:
        known = request.path in ("/inner/metrics", "/inner/livez", "/readyz")
        return web.Response(text=GOOD if known else "", status=200 if known else 404)

    ended = await check(f"--url={(await hostile(mounted)).replace('/metrics', '/inner/metrics')}")
    has(ended, "ok /livez: answers 200", "ok /readyz: answers 200", "warning /startupz: isn't served here")
