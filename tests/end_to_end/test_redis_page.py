"""What docs/redis.md says is so: its programs run on a real server, its variables and its rights are enough."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from flowrra import BackendConfig, BrokerConfig, Config, Flowrra
from tests.end_to_end.processes import ROOT
from tests.support.servers import ValkeyServer

PAGE = (ROOT / "docs" / "redis.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=range(1, len(PROGRAMS) + 1))
def test_a_program_prints_what_it_says(program: str, server: ValkeyServer, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(program.replace("localhost:6379", f"127.0.0.1:{server.port}"))
    run = subprocess.run(
        [sys.executable, "-W", "error", file], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )

    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == re.findall(r"print\(.*\)  # (.*)", program)


async def test_the_rights_of_its_user_are_enough(server: ValkeyServer) -> None:
    command = re.search(r"^ACL SETUSER shop .*$", PAGE, re.MULTILINE)
    assert command is not None
    with redis.Redis(port=server.port) as client:
        client.execute_command(*command[0].split())
    url = f"redis://shop:secret@127.0.0.1:{server.port}/0"
    app = Flowrra(Config(broker=BrokerConfig(url=url), backend=BackendConfig(url=url)))

    @app.task(max_retries=1, retry_delay=0.01)
    async def work(good: bool) -> int:
        if not good:
            raise ValueError("no")
        return 1

    @app.task()
    async def hang() -> None:
        await asyncio.Event().wait()

    async with app:
        results = [await app.wait_for_result(await app.submit(work, good), timeout=10) for good in (True, False)]
        hanging = await app.submit(hang)
        assert await app.cancel_task(hanging)
        later = await app.options(countdown=60).submit(work, True)
        assert await app.cancel_task(later)
    assert [result.status for result in results] == ["success", "failed"]


def test_the_variables_are_those_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FLOWRRA_")]:
        monkeypatch.delenv(name)
    rows = re.findall(r"^\| (`FLOWRRA_.*?) \| (?:`(.*?)`)? ?\|", PAGE, re.MULTILINE)
    names = {name: default for cell, default in rows for name in re.findall(r"`(FLOWRRA_\w+)`", cell)}
    of_connections = [name for name in names if "EXECUTOR" not in name]
    fields = {f"FLOWRRA_BROKER_{field.upper()}" for field in BrokerConfig.__dataclass_fields__}
    fields |= {f"FLOWRRA_BACKEND_{field.upper()}" for field in BackendConfig.__dataclass_fields__}
    assert set(of_connections) == fields

    monkeypatch.setenv("FLOWRRA_BROKER_URL", "redis://localhost:6379/0")
    plain = Config.from_env()
    for name, default in names.items():
        if default and "<" not in default:
            monkeypatch.setenv(name, default)
    spelt_out = Config.from_env()
    assert (spelt_out.broker, spelt_out.executor) == (plain.broker, plain.executor)
