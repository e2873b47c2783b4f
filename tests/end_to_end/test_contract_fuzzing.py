"""A fuzzer asks the JSON API for whatever its OpenAPI document allows, and for what it doesn't: both tell the same."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from flowrra import Flowrra
from tests.exporter.conftest import Serve, serve
from tests.exporter.web.test_authentication import basic, hashed
from tests.exporter.web.test_json_api import document, make_history, with_history

__all__ = ["serve"]  # the fixture

ANNA = {"Authorization": basic("anna", "right")}
SECONDS = 110
# The stream has no end, and a fuzzer waits for one.
FLAGS = (
    *("--exclude-path", "/api/events", "--phases", "examples,coverage,fuzzing", "--max-examples", "3"),
    *("--seed", "1", "--suppress-health-check", "all", "--continue-on-failure", "--no-color"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "headers"),
    [
        pytest.param({}, {}, id="open"),
        pytest.param({"web_actions": True, "web_show_task_data": True}, {}, id="unauthenticated"),
        pytest.param({"web_api": True}, ANNA, id="without task data"),
        pytest.param({"web_actions": True, "web_show_task_data": True}, ANNA, id="with task data"),
    ],
)
async def test_nothing_is_found(
    serve: Serve, tmp_path: Path, settings: dict[str, Any], headers: dict[str, str]
) -> None:
    config = tmp_path / "web.yml"
    config.write_text(f"basic_auth_users: {{anna: {hashed('right')}}}\n")
    if settings:
        settings = {**settings, "web_config_file": config}
    app = with_history(Flowrra(), tmp_path)
    await app.start()
    await make_history(app)
    service = await serve(app, probe_timeout=10.0, **settings)
    spec = tmp_path / "openapi.json"
    spec.write_text(json.dumps(await document(service, **(ANNA if settings else {}))))
    if headers and "web_actions" in settings:
        token = json.loads((await service.get("/api/token", **headers)).text)["token"]
        headers = {**headers, "X-Flowrra-Token": token}
    given = [part for name, value in headers.items() for part in ("--header", f"{name}: {value}")]
    fuzzing = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("schemathesis")), "run", str(spec), "--url", service.url, *FLAGS, *given),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said = (await asyncio.wait_for(fuzzing.communicate(), SECONDS))[0].decode()
    finally:
        if fuzzing.returncode is None:
            fuzzing.kill()
        await app.stop(wait=False)
    assert fuzzing.returncode == 0, said
    assert "Failures" not in said, said
