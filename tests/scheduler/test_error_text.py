"""Errors in a store: text that each of them takes, whatever the error says."""

from __future__ import annotations

import pytest

from flowrra.scheduler.error_text import LONGEST_TEXT, describe, in_ascii
from flowrra.scheduler.local_time import LOCAL, micros
from tests.scheduler.test_stores import NOW, new_store, once, spoil


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


ERRORS = {
    "as it is": (OSError("für 5 €"), "OSError: für 5 €"),
    "NUL": (ValueError("a\0b"), r"ValueError: a\x00b"),
    "lone surrogate": (ValueError("caf\ud800"), r"ValueError: caf\ud800"),
    "no text": (Speechless(), "Speechless: its text can't be had, for RuntimeError"),
    "no text but the program's end": (Leaving(), "Leaving: its text can't be had, for SystemExit"),
    "long": (ValueError("x" * 70_000), ("ValueError: " + "x" * 70_000)[:LONGEST_TEXT] + "…"),
    "long when it is escaped": (ValueError("\0" * 70_000), "ValueError: " + r"\x00" * (LONGEST_TEXT - 12) + "…"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_is_its_type_and_text_in_what_any_server_takes(kind: str) -> None:
    error, text = ERRORS[kind]
    assert describe(error) == text


def test_what_is_not_ascii_can_be_escaped_as_well() -> None:
    assert in_ascii("für 5 €") == r"f\xfcr 5 \u20ac"


async def test_each_store_keeps_the_error_of_a_run_whatever_it_says(url: str) -> None:
    store = new_store(url)
    for number in range(len(ERRORS)):
        await store.create(once(f"{number}"))
    runs = (await store.claim(micros(NOW), LOCAL, "x", 10)).runs
    texts = [describe(error) for error, _ in ERRORS.values()]
    await store.settle(runs, micros(NOW), {run.id: text for run, text in zip(runs, texts, strict=True)})
    assert sorted(str(row["error"]) for row in await store.list_runs(None, 10)) == sorted(texts)
    await store.close()


async def test_each_store_keeps_why_a_schedule_is_broken_however_much_is_wrong(url: str) -> None:
    store = new_store(url)
    for name in ("bad", "good"):
        await store.create(once(name))
    await spoil(store, "bad", schedule_type="cron", schedule="x" * 65_500)
    assert [run.schedule.id for run in (await store.claim(micros(NOW), LOCAL, "x", 10)).runs] == ["good"]
    bad = await store.get("bad")
    assert bad is not None
    assert str(bad.broken).startswith("ValueError: Invalid cron expression 'xxx")
    assert len(str(bad.broken)) == LONGEST_TEXT + 1
    await store.close()
