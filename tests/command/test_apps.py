"""Which app is meant, and what is said where none can be had: one line, no traceback, no password."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowrra import BackendConfig, BrokerConfig, Config, Task
from flowrra import Flowrra as App
from flowrra.brokers import BaseBroker
from tests.command import shop
from tests.command.conftest import APP, COMMAND, Flowrra, Process
from tests.core.apps import RemoteBackend

NOBODY = "redis://me:secret@127.0.0.1:1/0"


@pytest.mark.parametrize("target", [APP, "tests.command.shop:make"])
def test_an_app_or_a_function_that_makes_one(flowrra: Flowrra, target: str) -> None:
    assert [row[0] for row in flowrra("queues", "-A", target).rows] == ["default", "mail"]


def test_the_environment_names_the_app(flowrra: Flowrra, monkeypatch: pytest.MonkeyPatch) -> None:
    assert flowrra("queues").status == 0
    monkeypatch.delenv("FLOWRRA_APP")
    assert flowrra("queues").status == 2
    assert "Which app? Give --app MODULE:APP or --broker URL" in flowrra("queues").reason


def test_the_environment_names_the_server(flowrra: Flowrra, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWRRA_APP")
    monkeypatch.setenv("FLOWRRA_BROKER_URL", url)
    assert flowrra("queues").status == 0


def test_a_server_alone(flowrra: Flowrra, url: str) -> None:
    task_id = flowrra("submit", "send", "me").out.strip()
    assert [task["task_id"] for task in flowrra("tasks", "--broker", url, "--json").answer["tasks"]] == [task_id]
    assert flowrra("tasks", "--broker", url, "--namespace", "other", "--json").answer["tasks"] == []


@pytest.mark.parametrize("option", [("--namespace", "other"), ("--partitions", "2"), ("--backend", NOBODY)])
def test_what_goes_with_a_broker_alone_is_refused_elsewhere(
    flowrra: Flowrra, url: str, monkeypatch: pytest.MonkeyPatch, option: tuple[str, str]
) -> None:
    reason = f"{option[0]} goes with --broker: an app, and the environment, have their own"
    assert (flowrra("purge", "mail", "--yes", *option).status, flowrra("queues", *option).reason) == (2, reason)
    monkeypatch.delenv("FLOWRRA_APP")
    monkeypatch.setenv("FLOWRRA_BROKER_URL", url)
    assert (flowrra("purge", "mail", "--yes", *option).status, flowrra("queues", *option).reason) == (2, reason)


@pytest.mark.parametrize("address", ["mysql://me:secret@host", "nourl"])
def test_a_broker_of_another_kind_is_used_wrongly(flowrra: Flowrra, address: str) -> None:
    ran = flowrra("stats", "--broker", address)
    assert ran.status == 2
    assert ran.reason.startswith("Unsupported broker URL scheme")
    assert "secret" not in ran.reason


def test_a_module_that_raises_what_is_no_exception(url: str, tmp_path: Path) -> None:
    (tmp_path / "rude.py").write_text("class Rude(BaseException): ...\nraise Rude('go away')\n")
    with Process(url, "stats", "-A", "rude:app", folder=tmp_path) as process:
        ran = process.end()
    assert (ran.status, ran.reason) == (2, "Importing 'rude' failed: Rude: go away")


def test_a_server_whose_queues_have_partitions(flowrra: Flowrra, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWRRA_APP")
    for name, value in {"BROKER_URL": url, "BROKER_PARTITIONS": "3"}.items():
        monkeypatch.setenv(f"FLOWRRA_{name}", value)
    assert flowrra("queues").status == 0  # and with that their number is known
    assert flowrra("queues", "--broker", url, "--partitions", "3").status == 0
    assert (
        "others have 3 partitions, and this process has 2"
        in flowrra("queues", "--broker", url, "--partitions", "2").reason
    )
    assert flowrra("queues", "--broker", url, "--partitions", "65").status == 2


def test_an_app_is_not_started(flowrra: Flowrra) -> None:
    assert "the shop opens" not in flowrra("stats").out
    assert "the shop opens" not in flowrra("submit", "hold").out


@pytest.mark.slow
def test_modules_of_the_current_folder_are_found(url: str, tmp_path: Path) -> None:
    (tmp_path / "corner_shop.py").write_text(
        f"from flowrra import Flowrra\napp = Flowrra.from_urls({url!r}, {url!r})\n"
    )
    with Process(url, "stats", "-A", "corner_shop:app", folder=tmp_path) as process:
        assert process.end().status == 0


@pytest.mark.slow
def test_what_a_module_prints_is_no_part_of_the_answer(url: str, tmp_path: Path) -> None:
    program = f"print('hello')\nfrom flowrra import Flowrra\napp = Flowrra.from_urls({url!r}, {url!r})\n"
    (tmp_path / "loud_shop.py").write_text(program)
    with Process(url, "queues", "-A", "loud_shop:app", "--json", folder=tmp_path) as process:
        ran = process.end()
    assert [queue["queue"] for queue in ran.answer] == ["default", "default"]
    assert ran.err == "hello\n"


def test_an_app_whose_results_are_in_memory(flowrra: Flowrra, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = App.from_urls(url)
    app.task(name="alone")(shop.alone)
    monkeypatch.setattr(shop, "forgetful", app, raising=False)
    target = "tests.command.shop:forgetful"
    assert "The app's results are in the memory of the process" in flowrra("tasks", "-A", target).reason
    assert flowrra("stats", "-A", target, "--json").answer["tasks"] is None
    assert [row[0] for row in flowrra("queues", "-A", target).rows] == ["default"]


def test_an_app_whose_results_can_not_be_listed(flowrra: Flowrra, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = App(Config(broker=BrokerConfig(url), backend=RemoteBackend()))
    app.task(name="alone")(shop.alone)
    monkeypatch.setattr(shop, "unlisted", app, raising=False)
    target = "tests.command.shop:unlisted"
    assert flowrra("stats", "-A", target, "--json").answer["tasks"] is None
    assert "can't be listed" in flowrra("cancel", "--name", "alone", "--yes", "-A", target).reason


class OwnBroker(BaseBroker):
    """One that only pushes and pops."""

    async def push(self, task: Task) -> None: ...

    async def pop(self, timeout: float | None = None) -> Task | None: ...

    async def size(self) -> int:
        return 3


def test_a_broker_of_the_user_s_own(flowrra: Flowrra, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = App(Config(broker=OwnBroker(), backend=BackendConfig(url=url)))
    app.task(name="alone")(shop.alone)
    monkeypatch.setattr(shop, "own", app, raising=False)
    target = "tests.command.shop:own"
    assert flowrra("stats", "-A", target, "--json").answer["queues"]["pending"] == 3
    assert flowrra("stats", "-A", target).status == 0
    assert flowrra("health", "-A", target).status == 0


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("shop", "'shop' names no app; expected MODULE:APP, such as shop.tasks:app; did you mean 'shop:app'?"),
        ("./shop/tasks.py:main", "did you mean 'shop.tasks:main'?"),
        (
            "benchmraks:app",
            "There is no module 'benchmraks'; expected MODULE:APP, such as shop.tasks:app; did you mean",
        ),
        ("tests.command.shop:ap", "Module 'tests.command.shop' has no 'ap'; did you mean 'app'?"),
        ("tests.command.shop:number", "'tests.command.shop:number' is no app but a int"),
        ("tests.command.shop:needs", "Calling 'tests.command.shop:needs' failed: TypeError: "),
        ("tests.command.shop:broken", "failed: OSError: no redis://***@host/0"),
        ("tests.command.shop:memory", "The app's tasks wait in the memory of the process that runs the app"),
    ],
)
def test_no_such_app(flowrra: Flowrra, target: str, reason: str) -> None:
    ran = flowrra("stats", "-A", target)
    assert ran.status == 2
    assert reason in ran.reason


def test_an_app_and_a_broker(flowrra: Flowrra, url: str) -> None:
    assert "Give either --app or --broker" in flowrra("stats", "-A", APP, "--broker", url).reason


@pytest.mark.slow
@pytest.mark.parametrize("command", [["stats"], ["tasks"], ["queues"], ["workers"], ["dead"], ["purge", "mail", "-y"]])
def test_a_server_that_is_away(flowrra: Flowrra, command: list[str]) -> None:
    ran = flowrra(*command, "--broker", NOBODY)
    assert ran.status == 1
    assert "127.0.0.1:1" in ran.reason
    assert "secret" not in ran.reason


def test_a_driver_that_is_missing(url: str) -> None:
    program = "import sys; sys.modules['redis'] = None; from flowrra.command.main import main; sys.exit(main())"
    ran = subprocess.run(
        [sys.executable, "-c", program, "stats", "--broker", url], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert ran.stderr.splitlines() == [
        "flowrra: A broker on Redis requires redis package: pip install 'flowrra[redis]'"
    ]
    assert ran.stdout == ""


def test_a_mistyped_command(flowrra: Flowrra) -> None:
    assert flowrra("taks").reason == "There is no command 'taks'; did you mean 'tasks'?"
    assert flowrra("taks").status == 2


def test_help_is_there_for_each_command(flowrra: Flowrra) -> None:
    assert flowrra("-h").out == flowrra("--help").out == flowrra().out
    assert "--json" in flowrra("tasks", "-h").out


def test_python_m_flowrra_is_the_same(flowrra: Flowrra) -> None:
    ran = subprocess.run([sys.executable, "-m", "flowrra", "-h"], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == flowrra("-h").out.split()


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    script = subprocess.run(
        [COMMAND],
        env={**os.environ, "_FLOWRRA_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "_FLOWRRA_COMPLETE" in script.stdout
    words = {"COMP_WORDS": "flowrra wor", "COMP_CWORD": "1" if shell != "fish" else "wor"}
    completed = subprocess.run(
        [COMMAND],
        env={**os.environ, **words, "_FLOWRRA_COMPLETE": f"{shell}_complete"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "worker" in completed.stdout
    assert "workers" in completed.stdout
