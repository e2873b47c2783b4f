"""docs/management-api.md says of each method and key what the code says; its programs print what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowrra import Flowrra
from tests.core.apps import LoopThread
from tests.management.described import METHODS, answer_types, signature_of, table_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "management-api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PROGRAMS = [code for code in BLOCKS if code.endswith("asyncio.run(main())\n")]
SIGNATURES = "".join(re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


def on_one_line(signatures: str) -> str:
    return signatures.replace("(\n    ", "(").replace(",\n)", ")").replace("\n    ", " ")


def test_every_method_is_there_once_as_it_is_called_and_no_other() -> None:
    assert sorted(on_one_line(SIGNATURES).splitlines()) == sorted(map(signature_of, METHODS))


@pytest.mark.parametrize("answer", answer_types(), ids=lambda answer: answer.__name__)
def test_every_answer_is_there_with_its_keys_types_and_meanings(answer: Any) -> None:
    expected = table_of(answer)
    if f"\n\n{expected}\n\n" not in PAGE:
        pytest.fail(f"docs/management-api.md lacks what the code says now:\n\n{expected}\n", pytrace=False)


def test_there_is_no_table_of_an_answer_that_there_is_no_more() -> None:
    shown = re.findall(r"^\*\*`(\w+)`\*\*", PAGE, re.MULTILINE)
    assert sorted(shown) == sorted(answer.__name__ for answer in answer_types())


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=range(1, len(PROGRAMS) + 1))
def test_a_program_prints_what_it_says(program: str) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == re.findall(r"^ *print\(.*\)  # (.*)$", program, re.MULTILINE)


def example_with(framework: str) -> dict[str, Any]:
    """The names that an example leaves behind."""
    (code,) = [block for block in BLOCKS if f"from {framework} import" in block]
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(code, f"the example with {framework}", "exec"), names)
    return names


def test_no_example_is_left_out() -> None:
    assert len(BLOCKS) == len(PROGRAMS) + 2


async def test_the_example_with_fastapi() -> None:
    app = example_with("fastapi")["app"]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        before = await client.get("/api/health")
        async with app.router.lifespan_context(app):
            stats, health = [await client.get(path) for path in ("/api/stats", "/api/health")]
    assert before.json()["healthy"] is False
    assert (stats.json()["app"], health.json()["healthy"]) == ({"running": True}, True)


def test_the_example_with_flask() -> None:
    names = example_with("flask")
    flowrra: Flowrra = names["flowrra"]
    client = names["app"].test_client()
    assert client.get("/api/health").get_json()["healthy"] is False
    with LoopThread() as elsewhere:
        elsewhere.run(flowrra.start())
        stats, health = client.get("/api/stats"), client.get("/api/health")
        elsewhere.run(flowrra.stop())
    assert (stats.get_json()["app"], health.get_json()["healthy"]) == ({"running": True}, True)


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).resolve().exists(), link
