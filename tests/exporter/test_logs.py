"""The log: one record a line, greppable or JSON, with the running task and without passwords."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
from flowrra_exporter import logs

from flowrra import Flowrra

Configure = Callable[[str, str], io.StringIO]


@pytest.fixture
def configured() -> Iterator[Configure]:
    """Configures logging into a stream; puts the test run's own handlers back in the end."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]

    def configure(level: str, format: str) -> io.StringIO:
        root.handlers[:] = []
        stream = io.StringIO()
        logs.configure(level, format, stream)
        return stream

    yield configure
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_text_is_key_value_pairs_on_one_line(configured: Configure) -> None:
    stream = configured("info", "text")
    logging.getLogger("shop").info('said "hi"\nand left')
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("time=20")
    assert line.endswith(r'level=info logger=shop msg="said \"hi\"\nand left"')


def test_json_is_one_object_a_line(configured: Configure) -> None:
    stream = configured("info", "json")
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("shop").exception("failed: %s", "sale")
    record = json.loads(stream.getvalue())
    assert (record["level"], record["logger"], record["msg"]) == ("error", "shop", "failed: sale")
    assert record["time"].endswith("Z")
    assert record["exception"].endswith("ValueError: no")


def test_the_level_holds(configured: Configure) -> None:
    stream = configured("warning", "text")
    logging.getLogger("shop").info("quiet")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize(
    "url", ["redis://user:s3cret@host:6379/0", "redis://:s3cret@host", "postgresql://u:s3cret/@x@host/db"]
)
def test_passwords_in_urls_are_masked_everywhere(configured: Configure, format: str, url: str) -> None:
    stream = configured("info", format)
    try:
        raise ConnectionError(f"cannot reach {url}")
    except ConnectionError as error:
        logging.getLogger("shop").exception("broker %s: %s", url, error)
    assert "s3cret" not in stream.getvalue()
    assert "://***@host" in stream.getvalue()


@pytest.mark.parametrize("format", ["text", "json"])
async def test_a_tasks_own_lines_name_the_task(configured: Configure, format: str) -> None:
    stream = configured("info", format)
    app = Flowrra()

    @app.task(name="greet")
    async def greet() -> None:
        logging.getLogger("shop").info("hello")

    async with app:
        task_id = await app.submit(greet)
        await app.wait_for_result(task_id, timeout=5)
    (line,) = [line for line in stream.getvalue().splitlines() if "hello" in line]
    if format == "json":
        record = json.loads(line)
        assert (record["task_name"], record["task_id"], record["attempt"]) == ("greet", task_id, 1)
    else:
        assert f"task_id={task_id} task_name=greet attempt=1" in line
