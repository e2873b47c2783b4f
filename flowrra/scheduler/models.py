"""What a schedule and its runs are, and which values they may have."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Self

from flowrra.ranges import RETRIES, SECONDS, SOME_SECONDS, Range, shown
from flowrra.scheduler.cron import CronExpression
from flowrra.scheduler.local_time import micros, zone_named
from flowrra.tags import Writer


class ScheduleType(Enum):
    """How a schedule repeats."""

    CRON = "cron"
    INTERVAL = "interval"
    ONE_TIME = "one_time"


def _now() -> datetime:
    return datetime.now()  # noqa: DTZ005 - the public datetimes of schedules are local


@dataclass
class ScheduledTask:
    """A schedule. Its datetimes are naive local times; ``priority`` is higher first, unlike that of tasks.

    ``timezone`` is the name of the zone that its cron expression is read in (None: the scheduler's),
    ``misfire_grace`` the seconds by which a run may be late and still happen, ``misfire`` which of the runs that came
    due meanwhile happen (``latest`` or ``all``), ``max_running`` how many of its tasks may be unfinished (a run that
    comes due meanwhile is skipped; None: any number), ``broken`` why it can't run.
    """

    id: str
    task_name: str
    schedule_type: ScheduleType
    schedule: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    enabled: bool = True
    last_run_at: datetime | None = None
    next_run_at: datetime | None = None
    created_at: datetime = field(default_factory=_now)
    updated_at: datetime = field(default_factory=_now)
    description: str | None = None
    max_retries: int = 3
    retry_delay: float = 1.0
    priority: int = 0
    timezone: str | None = None
    misfire_grace: float = 86_400.0
    max_running: int | None = None
    broken: str | None = None
    misfire: str = "latest"

    def to_dict(self) -> dict[str, Any]:
        """Its fields, JSON-safe if the arguments are: datetimes in ISO format, ``args`` a list."""
        found = {**asdict(self), "schedule_type": self.schedule_type.value, "args": list(self.args)}
        return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in found.items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """What :meth:`to_dict` made of it."""
        fields = {**data, "schedule_type": ScheduleType(data["schedule_type"]), "args": tuple(data.get("args", ()))}
        for name in ("last_run_at", "next_run_at", "created_at", "updated_at"):
            if isinstance(fields.get(name), str):
                fields[name] = datetime.fromisoformat(fields[name])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Run:
    """One due time of a schedule, claimed by one scheduler; ``id`` is the id of its task as well, and ``until`` the
    instant until which its submission is tried."""

    id: str
    schedule: ScheduledTask
    due: int
    attempts: int
    until: int


MISFIRES = ("latest", "all")
# With "@" and the due time it is the id of a run, which has 255 characters at the most.
LONGEST_ID = 238
LONGEST_NAME = 255
# As far as the columns of the stores reach.
PRIORITY = Range(-(2**31 - 1), 2**31 - 1, is_whole=True)
RUNNING = Range(0, 2**31 - 1, is_whole=True, is_open=True)


def check(task: ScheduledTask) -> None:
    """Refuse a schedule that can't be, or whose tasks could not be.

    Raises:
        TypeError, ValueError: A value is of the wrong type or out of range.
    """
    _check_text("id", task.id, LONGEST_ID)
    _check_text("task_name", task.task_name, LONGEST_NAME)
    if task.description is not None and not isinstance(task.description, str):
        raise TypeError(f"description must be text, not {shown(task.description)}")
    if not isinstance(task.enabled, bool):
        raise TypeError(f"enabled must be True or False, not {shown(task.enabled)}")
    RETRIES.check("max_retries", task.max_retries)
    SECONDS.check("retry_delay", task.retry_delay)
    PRIORITY.check("priority", task.priority)
    SOME_SECONDS.check("misfire_grace", task.misfire_grace)
    if task.misfire not in MISFIRES:
        raise ValueError(f"misfire must be one of {', '.join(MISFIRES)}, not {shown(task.misfire)}")
    if task.max_running is not None:
        RUNNING.check("max_running", task.max_running)
    _check_zone(task.timezone)


def _check_text(name: str, value: object, most: int) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, not {shown(value)}")
    if not 1 <= len(value) <= most:
        raise ValueError(f"{name} must have from 1 to {most} characters, not {len(value)}")
    value.encode()  # what no store or broker could be sent is refused here


def _check_zone(name: object) -> None:
    if name is None:
        return
    if not isinstance(name, str):
        raise TypeError(f"timezone must be the name of a zone, not {shown(name)}")
    zone_named(name)


def call_arguments(args: object, kwargs: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a function is called with.

    Raises:
        TypeError: No function could be called with that.
    """
    if not isinstance(args, list | tuple):
        raise TypeError(f"args must be a list or tuple, not {shown(args)}")
    kwargs = {} if kwargs is None else kwargs
    if not isinstance(kwargs, dict) or not all(isinstance(key, str) for key in kwargs):
        raise TypeError(f"kwargs must be a dict whose keys are text, not {shown(kwargs)}")
    return tuple(args), dict(kwargs)


def named(task: ScheduledTask) -> str:
    """Which schedule it is, for the log: its task, its description if it has one, its id."""
    description = "" if task.description is None else f" description={shown(task.description)}"
    return f"task={task.task_name} schedule={task.id}{description}"


def definition_key(task: ScheduledTask) -> str:
    """A text that is equal for schedules that mean the same, however they are written."""
    if task.schedule_type is ScheduleType.CRON:
        schedule = CronExpression(task.schedule).canonical
    elif task.schedule_type is ScheduleType.INTERVAL:
        schedule = repr(float(task.schedule))
    else:
        schedule = str(micros(datetime.fromisoformat(task.schedule)))
    parts = [task.task_name, task.schedule_type.value, schedule, list(task.args), task.kwargs]
    if task.schedule_type is ScheduleType.CRON and task.timezone is not None:
        parts.append(task.timezone)
    # A tuple is a list there, as in flowrra 0.1.8, whose schedules are found again.
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=Writer().write).encode()).hexdigest()
