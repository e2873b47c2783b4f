"""Cron expressions: which minutes they name, and the next of them, daylight saving included.

The calendar is searched month by month and by bisection within a day, so that a leap day is found as quickly as
the next minute. The arithmetic is ours because the libraries lose runs where a clock is put forward or back by
half an hour, or answer a start in a doubled hour with a time that is already past.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from calendar import monthrange
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from flowrra.ranges import shown

MACROS: Mapping[str, str] = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""What the names for whole expressions stand for."""

_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
_LONGEST_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True)
class _Field:
    name: str
    low: int
    high: int
    names: Mapping[str, int] = field(default_factory=dict)

    def parse(self, text: str) -> set[int]:
        values: set[int] = set()
        for part in text.split(","):
            values.update(self._part(part))
        return values

    def _part(self, text: str) -> range:
        span, slash, step_text = text.partition("/")
        step = self._step(step_text, text) if slash else 1
        if span == "*":
            return range(self.low, self.high + 1, step)
        first, dash, last = span.partition("-")
        start = self._value(first, text)
        end = self._value(last, text) if dash else self.high if slash else start
        if start > end:
            raise ValueError(f"Invalid range: {text} in the {self.name} field (start > end)")
        return range(start, end + 1, step)

    def _value(self, text: str, part: str) -> int:
        named = self.names.get(text.upper())
        if named is not None:
            return named
        if not (text.isascii() and text.isdigit()):
            raise ValueError(f"Invalid {self.name} '{part}': expected numbers{' or names' if self.names else ''}")
        value = _number(text)
        if not self.low <= value <= self.high:
            raise ValueError(f"Value {value} out of range [{self.low}, {self.high}] in the {self.name} field")
        return value

    def _step(self, text: str, part: str) -> int:
        if not (text.isascii() and text.isdigit()) or _number(text) == 0:
            raise ValueError(f"Invalid step in the {self.name} '{part}': expected a number above 0")
        return _number(text)


def _number(digits: str) -> int:
    """The number of these digits; of one with more than nine its beginning, which is out of every range, too."""
    return int(digits.lstrip("0")[:9] or "0")


_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]

_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    _Field("weekday", 0, 7, {name: number for number, name in enumerate(_WEEKDAYS)}),
)


class CronExpression:
    """A cron expression: ``minute hour day month weekday``, or a macro such as ``@daily``.

    ``text`` has five fields, separated by whitespace. Each is a list, with commas, of ``*``, a value, a range
    ``a-b``, or one of these with a step: ``*/n``, ``a-b/n``, ``a/n`` (from a to the field's end). Minutes are 0-59,
    hours 0-23, days 1-31, months 1-12 or JAN-DEC, weekdays 0-7 or SUN-SAT; 0 and 7 are both Sunday.

    Day and weekday combine as in cron: if neither field begins with ``*``, a day that matches either will do
    (``0 0 13 * FRI``: each 13th and each Friday); otherwise it must match both.

    Raises TypeError for what is no text, and ValueError for any other text, and for an expression that no date can
    match, such as ``0 0 31 2 *``.
    """

    expression: str
    """The text as given, without the whitespace around it."""
    minutes: set[int]
    hours: set[int]
    days: set[int]
    months: set[int]
    weekdays: set[int]
    """0 (Sunday) to 6."""

    def __init__(self, expression: str) -> None:
        if not isinstance(expression, str):
            raise TypeError(f"a cron expression must be a string, not {shown(expression)}")
        self.expression = expression.strip()
        fields = self._fields()
        self.minute_field, self.hour_field, self.day_field, self.month_field, self.weekday_field = fields
        parsed = [kind.parse(value) for kind, value in zip(_FIELDS, fields, strict=True)]
        self.minutes, self.hours, self.days, self.months, weekdays = parsed
        self.weekdays = {weekday % 7 for weekday in weekdays}
        self._both_days = self.day_field.startswith("*") or self.weekday_field.startswith("*")
        self._by_elapsed_time = self.minute_field.startswith("*") or self.hour_field.startswith("*")
        self._sorted_minutes, self._sorted_hours = sorted(self.minutes), sorted(self.hours)
        self._sorted_months = sorted(self.months)
        # The minutes of a day that match, from midnight on.
        self._of_day = [60 * hour + minute for hour in self._sorted_hours for minute in self._sorted_minutes]
        if self._both_days and min(self.days) > max(_LONGEST_MONTH[month - 1] for month in self.months):
            raise ValueError(f"Cron expression '{self.expression}' never matches: no such day in its months")

    def _fields(self) -> list[str]:
        text = self.expression
        if text.startswith("@"):
            meaning = MACROS.get(text.lower())
            if meaning is None:
                raise ValueError(f"Unknown cron macro '{text}'; known are {', '.join(MACROS)}")
            text = meaning
        fields = text.split()
        if len(fields) != 5:
            raise ValueError(
                f"Invalid cron expression '{self.expression}'. "
                f"Expected 5 fields (minute hour day month weekday), got {len(fields)}"
            )
        return fields

    @property
    def canonical(self) -> str:
        """The same for expressions that differ only in spacing, case, or a macro for what it stands for."""
        return " ".join(self._fields()).upper()

    def matches(self, dt: datetime) -> bool:
        """Whether the minute that ``dt`` lies in is one of the expression's, as its own clock shows it."""
        return dt.minute in self.minutes and dt.hour in self.hours and self._matches_date(dt.date())

    def next_run(self, after: datetime | None = None) -> datetime:
        """The first matching minute after the one that ``after`` lies in; without it, after now.

        A naive time, the default, is taken as a clock that is never put forward or back, and the answer is naive.
        An aware one is answered in its own time zone, by `next_after`. Raises ValueError if there is none until
        the year 9999.
        """
        after = datetime.now() if after is None else after  # noqa: DTZ005 - naive local times are the contract
        if after.tzinfo is not None:
            return self.next_after(after, after.tzinfo).astimezone(after.tzinfo)
        return self._next_naive(after.replace(second=0, microsecond=0, fold=0))

    def next_after(self, instant: datetime, zone: tzinfo) -> datetime:
        """The first run strictly after ``instant`` (aware) of clocks in ``zone``, as an aware UTC datetime.

        Where clocks are put forward or back, as in cron:

        - A fixed time (neither the minute nor the hour begins with ``*``) in a skipped hour runs once, right after
          the gap; in a doubled hour it runs once, the first time.
        - Any other expression runs whenever a clock shows a time that matches: not at all in a skipped hour, twice
          in a doubled one. So ``*/15 * * * *`` runs every 15 minutes that really pass.

        Raises ValueError if ``instant`` is naive, or if there is no run until the year 9999.
        """
        if instant.tzinfo is None:
            raise ValueError("instant must be an aware datetime")
        instant = instant.astimezone(UTC)
        try:
            return self._next_shown(instant, zone) if self._by_elapsed_time else self._next_fixed(instant, zone)
        except OverflowError:
            raise self._no_run(instant) from None

    def _next_fixed(self, instant: datetime, zone: tzinfo) -> datetime:
        local = instant.astimezone(zone).replace(tzinfo=None, fold=0)
        while True:
            local = self._next_naive(local)
            run = _first_instant(local, zone)
            # In the second pass of a doubled hour, what the clock will show has been there before.
            if run > instant:
                return run

    def _next_shown(self, instant: datetime, zone: tzinfo) -> datetime:
        # The day before, too: where clocks are put back over midnight, it isn't over yet.
        start = instant.astimezone(zone).date()
        for day in self._dates(start - _DAY):
            runs = self._shown_on(day, instant, zone)
            if _changes(day, zone) and self._matches_date(day + _DAY):
                runs += self._shown_on(day + _DAY, instant, zone)
            if runs:
                return min(runs)
        raise self._no_run(instant)

    def _shown_on(self, day: date, instant: datetime, zone: tzinfo) -> list[datetime]:
        """For each offset from UTC of that day, the first run after ``instant`` that clocks show under it."""
        runs = []
        for offset in _offsets(day, zone):
            # The clock's time under this offset; it may be on another day.
            clock = instant.replace(tzinfo=None) + offset
            if clock.date() > day:
                continue
            for at in self._times(after=clock.time() if clock.date() == day else None):
                run = (datetime.combine(day, at) - offset).replace(tzinfo=UTC)
                if run.astimezone(zone).utcoffset() == offset:
                    runs.append(run)
                    break
        return runs

    def latest_runs(self, after: datetime, until: datetime, zone: tzinfo, most: int) -> tuple[list[datetime], int]:
        """The latest runs after one instant (aware) and until another, of clocks in ``zone``.

        They are counted a day at a time: a month of an expression for every minute takes as long as one for each day.

        Returns:
            The runs, in order and in UTC, ``most`` at the most; and how many there are.
        """
        latest: list[datetime] = []
        count = 0
        first, last = (instant.astimezone(zone).date() for instant in (after, until))
        # The days around them, too: where clocks are put back over midnight, they show a day once more.
        for back in range((last - first).days + 3):
            day = last + _DAY - back * _DAY
            if not self._matches_date(day):
                continue
            offsets = _offsets(day, zone)
            if len(offsets) == 1:
                midnight = (datetime.combine(day, time()) - offsets.pop()).replace(tzinfo=UTC)
                begin, end = (bisect_right(self._of_day, (at - midnight) / _MINUTE) for at in (after, until))
                missing = most - len(latest)
                latest += [midnight + at * _MINUTE for at in self._of_day[max(begin, end - missing) : end]]
                count += end - begin
            else:
                runs = [run for run in self._runs_on(day, zone) if after < run <= until]
                latest += runs
                count += len(runs)
        return sorted(latest)[-most:], count

    def _runs_on(self, day: date, zone: tzinfo) -> set[datetime]:
        """The runs at the times of a day on which clocks are put forward or back."""
        clocks = [datetime.combine(day, at) for at in self._times(after=None)]
        if not self._by_elapsed_time:
            runs = (_first_instant(clock, zone) for clock in clocks)
            # What follows a gap that lasts until midnight may be a run of the next day as well.
            return {run for run in runs if not self.matches(at := run.astimezone(zone)) or at.date() == day}
        shown = ((offset, (clock - offset).replace(tzinfo=UTC)) for offset in _offsets(day, zone) for clock in clocks)
        return {run for offset, run in shown if run.astimezone(zone).utcoffset() == offset}

    def _next_naive(self, after: datetime) -> datetime:
        """The first match after ``after``'s minute on a clock that is never put forward or back."""
        for day in self._dates(after.date()):
            for at in self._times(after=after.time() if day == after.date() else None):
                return datetime.combine(day, at)
        raise self._no_run(after)

    def _times(self, after: time | None) -> Iterator[time]:
        """The times of a day that match, from the minute that follows ``after`` on."""
        hours = self._sorted_hours
        for hour in hours if after is None else hours[bisect_left(hours, after.hour) :]:
            minutes = self._sorted_minutes
            if after is not None and hour == after.hour:
                minutes = minutes[bisect_right(minutes, after.minute) :]
            for minute in minutes:
                yield time(hour, minute)

    def _dates(self, start: date) -> Iterator[date]:
        """The dates that match, from ``start`` on."""
        for year in range(start.year, date.max.year + 1):
            for month in self._sorted_months:
                if (year, month) < (start.year, start.month):
                    continue
                first = start.day if (year, month) == (start.year, start.month) else 1
                yield from self._dates_in(year, month, first)

    def _dates_in(self, year: int, month: int, first: int) -> Iterator[date]:
        weekday, length = monthrange(year, month)  # of the first of the month, Monday is 0
        for day in range(first, length + 1):
            if self._matches_day(day, (weekday + day) % 7):
                yield date(year, month, day)

    def _matches_date(self, day: date) -> bool:
        return day.month in self.months and self._matches_day(day.day, day.isoweekday() % 7)

    def _matches_day(self, day: int, weekday: int) -> bool:
        if self._both_days:
            return day in self.days and weekday in self.weekdays
        return day in self.days or weekday in self.weekdays

    def _no_run(self, after: datetime) -> ValueError:
        return ValueError(f"Cron expression '{self.expression}' has no run after {after}")

    def __str__(self) -> str:
        return self.expression

    def __repr__(self) -> str:
        return f"CronExpression('{self.expression}')"


def _first_instant(local: datetime, zone: tzinfo) -> datetime:
    """When clocks in ``zone`` first show ``local``; if they skip it, when they go on after the gap."""
    run = local.replace(tzinfo=zone).astimezone(UTC)
    if run.astimezone(zone).replace(tzinfo=None, fold=0) == local:
        return run
    # Skipped. With fold=0 the offset is the one before the gap, with fold=1 the one after: the gap ends between.
    before, after = local.replace(tzinfo=zone, fold=1).astimezone(UTC), run
    offset = after.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + ((after - before) // 2 // timedelta(seconds=1)) * timedelta(seconds=1)
        if middle.astimezone(zone).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return after


def _offsets(day: date, zone: tzinfo) -> set[timedelta]:
    """The offsets from UTC that clocks in ``zone`` have on ``day``: one, or two where they change."""
    start = datetime.combine(day, time(), zone)
    end = datetime.combine(day + _DAY, time(), zone).replace(fold=1)
    return {offset for at in (start, end) if (offset := zone.utcoffset(at)) is not None}


def _changes(day: date, zone: tzinfo) -> bool:
    return len(_offsets(day, zone)) > 1
