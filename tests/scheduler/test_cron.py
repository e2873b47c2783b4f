"""Cron expressions: what is accepted, what it means, and the next run on a clock without daylight saving."""

from __future__ import annotations

import random
import timeit
from datetime import datetime, timedelta

import pytest
from croniter import croniter

from flowrra.scheduler import CronExpression


@pytest.mark.parametrize(
    ("text", "field", "values"),
    [
        ("*/20 * * * *", "minutes", {0, 20, 40}),
        ("5,10-12 * * * *", "minutes", {5, 10, 11, 12}),
        ("10-20/5 * * * *", "minutes", {10, 15, 20}),
        ("50/4 * * * *", "minutes", {50, 54, 58}),
        ("* 22-23 * * *", "hours", {22, 23}),
        ("* * 30-31 * *", "days", {30, 31}),
        ("* * * jan,DEC *", "months", {1, 12}),
        ("* * * * 7", "weekdays", {0}),
        ("* * * * 0-7", "weekdays", {0, 1, 2, 3, 4, 5, 6}),
        ("* * * * 5-7", "weekdays", {0, 5, 6}),
        ("* * * * MON-fri", "weekdays", {1, 2, 3, 4, 5}),
        ("* * * * 5/1", "weekdays", {0, 5, 6}),
    ],
)
def test_a_field_becomes_the_set_of_its_values(text: str, field: str, values: set[int]) -> None:
    assert getattr(CronExpression(text), field) == values


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expected 5 fields"),
        ("* * * *", "Expected 5 fields .*got 4"),
        ("* * * * * *", "Expected 5 fields .*got 6"),
        ("10-5 * * * *", "Invalid range: 10-5"),
        ("60 * * * *", r"Value 60 out of range \[0, 59\]"),
        ("50-70 * * * *", r"Value 70 out of range \[0, 59\]"),
        ("* 24/2 * * *", r"Value 24 out of range \[0, 23\]"),
        ("* * 0 * *", r"Value 0 out of range \[1, 31\]"),
        ("* * * 13 *", r"Value 13 out of range \[1, 12\]"),
        ("* * * * 8", r"Value 8 out of range \[0, 7\]"),
        ("*/0 * * * *", "Invalid step"),
        ("*/-1 * * * *", "Invalid step"),
        ("*/1/2 * * * *", "Invalid step"),
        ("1, * * * *", "Invalid minute"),
        ("-1 * * * *", "Invalid minute"),
        ("² * * * *", "Invalid minute"),
        ("MON * * * *", "Invalid minute"),
        ("* * ? * *", "Invalid day of month"),
        ("* * L * *", "Invalid day of month"),
        ("* * 15W * *", "Invalid day of month"),
        ("* * * * 5#2", "Invalid weekday"),
        ("* * * * MONDAY", "Invalid weekday"),
        ("@reboot", "Unknown cron macro '@reboot'"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        CronExpression(text)


@pytest.mark.parametrize("text", ["0000000059 0 * * *", "*/0000000005 0 * * *"])
def test_zeros_in_front_change_no_number(text: str) -> None:
    assert CronExpression(text).minutes == CronExpression(text.replace("00000000", "")).minutes


def test_a_number_with_many_zeros_in_front_is_out_of_range_too() -> None:
    with pytest.raises(ValueError, match="out of range"):
        CronExpression("0000000099 0 * * *")


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="a cron expression must be a string, not None"):
        CronExpression(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6,9,11 *"])
def test_what_no_date_matches_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="never matches"):
        CronExpression(text)


def test_an_impossible_date_beside_a_weekday_matches_on_the_weekday() -> None:
    assert CronExpression("0 0 31 2 MON").next_run(datetime(2024, 1, 1)) == datetime(2024, 2, 5)


def test_the_text_is_kept_and_the_canonical_form_ignores_how_it_was_written() -> None:
    cron = CronExpression("  0  9 *\t* mon ")
    assert (str(cron), repr(cron)) == ("0  9 *\t* mon", "CronExpression('0  9 *\t* mon')")
    assert cron.canonical == CronExpression("0 9 * * MON").canonical
    assert CronExpression("@Daily").canonical == CronExpression("0 0 * * *").canonical
    assert cron.weekday_field == "mon"


@pytest.mark.parametrize(
    ("macro", "first"),
    [
        ("@yearly", datetime(2025, 1, 1)),
        ("@annually", datetime(2025, 1, 1)),
        ("@monthly", datetime(2024, 6, 1)),
        ("@weekly", datetime(2024, 5, 19)),
        ("@daily", datetime(2024, 5, 16)),
        ("@midnight", datetime(2024, 5, 16)),
        ("@hourly", datetime(2024, 5, 15, 11)),
    ],
)
def test_a_macro_stands_for_an_expression(macro: str, first: datetime) -> None:
    assert CronExpression(macro).next_run(datetime(2024, 5, 15, 10, 30)) == first


def test_the_next_run_is_strictly_after_the_minute_that_it_is_asked_for() -> None:
    cron = CronExpression("30 10 * * *")
    assert cron.next_run(datetime(2024, 5, 15, 10, 29, 59, 999_999)) == datetime(2024, 5, 15, 10, 30)
    assert cron.next_run(datetime(2024, 5, 15, 10, 30)) == datetime(2024, 5, 16, 10, 30)


def test_without_a_start_the_next_run_is_after_now() -> None:
    now = datetime.now()
    assert timedelta(0) < CronExpression("* * * * *").next_run() - now <= timedelta(seconds=120)


def test_day_and_weekday_both_restricted_match_either() -> None:
    cron = CronExpression("0 0 13 * FRI")
    assert cron.matches(datetime(2024, 5, 13))  # a Monday
    assert cron.matches(datetime(2024, 5, 17))  # a Friday
    assert not cron.matches(datetime(2024, 5, 14))


def test_a_day_or_weekday_that_begins_with_a_star_must_match_as_well() -> None:
    cron = CronExpression("0 0 */2 * FRI")
    assert cron.matches(datetime(2024, 5, 17))  # an odd Friday
    assert not cron.matches(datetime(2024, 5, 24))
    assert not cron.matches(datetime(2024, 5, 15))


@pytest.mark.parametrize(
    ("after", "leap_day"),
    [
        (datetime(2024, 2, 28), datetime(2024, 2, 29)),
        (datetime(2024, 2, 29), datetime(2028, 2, 29)),
        (datetime(1896, 3, 1), datetime(1904, 2, 29)),
        (datetime(2096, 3, 1), datetime(2104, 2, 29)),
        (datetime(1999, 1, 1), datetime(2000, 2, 29)),
    ],
)
def test_leap_days_are_found_also_across_eight_years(after: datetime, leap_day: datetime) -> None:
    assert CronExpression("0 0 29 2 *").next_run(after) == leap_day


def test_the_end_of_the_calendar_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="has no run after 9999"):
        CronExpression("0 0 29 2 *").next_run(datetime(9999, 1, 1))


@pytest.mark.parametrize("text", ["0 0 1 1 *", "0 0 29 2 *"])
def test_a_run_years_away_is_found_at_once(text: str) -> None:
    cron = CronExpression(text)
    # About 10 µs each; 0.1.8 took 371 ms for the first and gave up on the second.
    assert min(timeit.repeat(lambda: cron.next_run(datetime(2096, 3, 1)), number=20, repeat=5)) < 20 * 0.001


@pytest.mark.slow
def test_thousands_of_random_expressions_agree_with_croniter() -> None:
    chance = random.Random(20240515)
    for _ in range(3000):
        text, start = _expression(chance), _start(chance)
        expected = _by_croniter(text, start)
        at = start
        for run in expected:
            at = CronExpression(text).next_run(at)
            assert at == run, f"{text!r} after {start}"
            assert CronExpression(text).matches(at)


def _by_croniter(text: str, start: datetime) -> list[datetime]:
    # What croniter calls a bug is how cron combines day and weekday.
    runs = croniter(text, start, ret_type=datetime, implement_cron_bug=True)
    return [runs.get_next() for _ in range(4)]


def _start(chance: random.Random) -> datetime:
    return datetime(1980, 1, 1) + timedelta(minutes=chance.randrange(70 * 365 * 24 * 60))


def _expression(chance: random.Random) -> str:
    day = _field(chance, 1, 28) if chance.random() < 0.8 else chance.choice(["29", "30", "31", "29-31"])
    month = _field(chance, 1, 12) if day[0] != "3" else "*"
    weekday = "*" if chance.random() < 0.5 else _field(chance, 0, 6)
    return " ".join([_field(chance, 0, 59), _field(chance, 0, 23), day, month, weekday])


def _field(chance: random.Random, low: int, high: int) -> str:
    first, last = sorted(chance.sample(range(low, high + 1), 2))
    kinds = ["*", "*", f"*/{chance.randint(1, high)}", str(first), f"{first}-{last}", f"{first},{last}"]
    # Not a range of one value: croniter takes that for the whole field.
    return chance.choice([*kinds, f"{first}-{last}/{chance.randint(1, 7)}", f"{last},{first}-{last}"])
