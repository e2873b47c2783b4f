"""The log: one record a line, greppable or JSON, with the running task and without passwords."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator

import pytest
from flowrra_exporter import logs
from flowrra_exporter.errors import without_credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from flowrra import Flowrra
from flowrra.urls import without_credentials as of_command

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


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h/0?password=s3cret&db=1", "redis://h/0?password=***&db=1"),
        ("redis://u:p@h/0?db=1&ssl_password=s3cret", "redis://***@h/0?db=1&ssl_password=***"),
        ("https://h/x?Access-Token=s3cret#part", "https://h/x?Access-Token=***#part"),
        ("https://h/x?page=2&password=", "https://h/x?page=2&password="),
    ],
)
def test_options_that_are_named_like_a_password_are_masked(configured: Configure, url: str, shown: str) -> None:
    stream = configured("info", "text")
    logging.getLogger("shop").error("cannot reach %s", url)
    assert f"{shown}" in stream.getvalue()
    assert "s3cret" not in stream.getvalue()
    assert without_credentials(url) == shown
    assert of_command(f"cannot reach {url} again") == f"cannot reach {shown} again"


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


@pytest.mark.parametrize("format", ["text", "json"])
async def test_a_password_in_a_tasks_id_is_masked(configured: Configure, format: str) -> None:
    stream = configured("info", format)
    app = Flowrra()

    @app.task(name="pull")
    async def pull() -> None:
        logging.getLogger("shop").info("hello")

    async with app:
        task_id = await app.options(task_id="https://bot:s3cret@git.example/r.git").submit(pull)
        await app.wait_for_result(task_id, timeout=5)
    assert "https://***@git.example/r.git" in stream.getvalue()
    assert "s3cret" not in stream.getvalue()


def record_of(message: str, error: BaseException | None = None) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("shop", logging.WARNING, __file__, 1, message, None, info)


# What credentials were masked by a pattern that took the square of a line's length for it.
_CREDENTIALS = re.compile(r"(?<=://)(?:[^/\s'\"]*:[^\s'\"]*|[^/\s'\"]+)@")


@pytest.mark.slow
@given(st.lists(st.sampled_from(["://", "a", ":", "/", "@", " ", '"', "b"]), max_size=20).map("".join))
@settings(max_examples=300, deadline=None)
def test_credentials_are_everything_between_the_scheme_and_the_last_at(text: str) -> None:
    assert logs.mask_secrets(text) == _CREDENTIALS.sub("***@", text)


FORGED = "time=2026-01-01T00:00:00.000Z level=info logger=shop msg=paid"


@pytest.mark.parametrize(
    "unseen",
    [*"\x00\a\b\t\n\v\f\r\x1b\x7f\x85\x9b\u200e\u2028\u2029\u202e\u2066", "\ud800", f"\n{FORGED}", "\x1b[2J\x1b]0;x\a"],
    ids=ascii,
)
@pytest.mark.parametrize("format", [logs.TextFormatter(), logs.JsonFormatter()], ids=["text", "json"])
def test_nothing_that_is_logged_forges_a_line_or_moves_a_cursor(format: logging.Formatter, unseen: str) -> None:
    for record in (record_of(f"file a{unseen}b"), record_of("failed", ValueError(f"a{unseen}b"))):
        record.name = f"shop{unseen}"
        line = format.format(record)
        assert line.replace("\n", "").replace("\t", "").isprintable()
        assert [each for each in line.splitlines() if not each.startswith("  ")] == [line.splitlines()[0]]


def test_a_long_message_loses_its_middle(configured: Configure) -> None:
    stream = configured("info", "text")
    logging.getLogger("shop").info("begin%send", "x" * 10_000_000)
    assert len(stream.getvalue()) < 40_000
    assert "begin" in stream.getvalue()
    assert "characters left out" in stream.getvalue()
    assert stream.getvalue().endswith('xend"\n')
