"""A stand-in for an app: answers the Management API's questions with whatever a test sets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

NOTHING_YET = {"bounds": (0.1, 1.0), "counts": (0, 0, 0), "sum": 0.0}


def task_stats(**changes: Any) -> dict[str, Any]:
    """What ``get_task_stats`` says of one task: all at 0 but the changes."""
    counters = (
        "submitted started succeeded failed retried cancelled released timed_out redelivered "
        "cancelled_before_start running retrying"
    )
    return {
        "executor": "io",
        **dict.fromkeys(counters.split(), 0),
        "oldest_running_at": None,
        "exceptions": {},
        "run_duration": {"success": NOTHING_YET, "error": NOTHING_YET},
        "queue_wait": NOTHING_YET,
        **changes,
    }


def schedule(name: str, **changes: Any) -> dict[str, Any]:
    """What ``list_schedules`` says of one schedule: a cron schedule that ran, but the changes."""
    return {
        "id": name,
        "task_name": "report",
        "schedule_type": "cron",
        "schedule": "0 3 * * *",
        "enabled": True,
        "next_run_at": datetime.fromtimestamp(1_700_000_300),  # noqa: DTZ006 - local times, as flowrra gives them
        "last_run_at": datetime.fromtimestamp(1_699_999_000),  # noqa: DTZ006
        "priority": 0,
        "description": None,
        "period": 86_400.0,
        "created_at": datetime.fromtimestamp(1_690_000_000),  # noqa: DTZ006
        "updated_at": datetime.fromtimestamp(1_690_000_000),  # noqa: DTZ006
        **changes,
    }


class MinimalApp:
    """The least that is an app: ``get_stats`` and ``health_check``."""

    def __init__(self) -> None:
        self.stats: dict[str, Any] = {
            "app": {"running": True},
            "executors": {"io": {"running": True, "workers": 4}, "cpu": None},
            "tasks": {"registered": 1, "pending": 0},
            "scheduler": None,
        }
        self.health: dict[str, Any] = {
            "healthy": True,
            "timestamp": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            "components": {"app": {"healthy": True, "message": "App is running"}, "cpu_executor": None},
        }
        self.calls: dict[str, int] = {}
        self.before: dict[str, Callable[[], Awaitable[object]]] = {}

    async def _answer(self, method: str, answer: Any) -> Any:
        self.calls[method] = self.calls.get(method, 0) + 1
        if method in self.before:
            await self.before[method]()
        return answer

    async def get_stats(self) -> Any:
        return await self._answer("get_stats", self.stats)

    async def health_check(self) -> Any:
        return await self._answer("health_check", self.health)


class ContractApp(MinimalApp):
    """Answers everything that the exporter asks today's flowrra."""

    def __init__(self) -> None:
        super().__init__()
        self.stats["executors"]["io"] |= {
            "busy": 3,
            "waiting": 5,
            "stuck": False,
            "draining": False,
            "queues": ["default", "mail"],
        }
        self.stats["tasks"]["pending"] = 7
        self.queues: dict[str, Any] = {
            "io": {
                "pending": 7,
                "delayed": 2,
                "in_flight": 3,
                "taken": 40,
                "dead": 0,
                "unknown": 1,
                "oldest_pending_at": datetime.fromtimestamp(1_700_000_000.25, UTC),
                "paused": False,
                "paused_tasks": 1,
                "broker": "memory",
                "namespace": "flowrra",
                "server": "",
                "shared": False,
                "drain_seconds": 12.5,
                "clock_offset": -0.25,
                "memory_used": 1_000_000,
                "memory_limit": 4_000_000,
                "lease": 20.0,
                "unfit": {"eviction": True, "clock": False, "replica": None},
            },
            "cpu": None,
        }
        self.workers: Any = [
            {"id": "shop-1", "host": "shop", "pid": 1, "executors": {"io": {"slots": 4, "busy": 3}}},
            {"id": "shop-2", "host": "shop", "pid": 2, "executors": {"io": {"slots": 6, "busy": 2}}},
            {"id": "shop-3", "host": "shop", "pid": 3, "executors": {"io": {"slots": 9, "busy": 1}}, "draining": True},
        ]
        self.tasks: dict[str, Any] = {
            "send_email": task_stats(
                submitted=10,
                started=9,
                succeeded=5,
                failed=1,
                retried=2,
                running=1,
                retrying=1,
                timed_out=1,
                oldest_running_at=datetime.fromtimestamp(1_700_000_100, UTC),
                exceptions={"ValueError": 2, "TimeoutError": 1},
                run_duration={
                    "success": {"bounds": (0.1, 1.0), "counts": (3, 1, 1), "sum": 4.5},
                    "error": {"bounds": (0.1, 1.0), "counts": (0, 3, 0), "sum": 1.5},
                },
                queue_wait={"bounds": (0.1, 1.0), "counts": (9, 0, 0), "sum": 0.25},
            ),
            "resize": task_stats(executor="cpu"),
        }
        self.runtime: dict[str, Any] = {
            "stopping": False,
            "loop_lag": {"bounds": (0.01, 0.1), "counts": (100, 2, 1), "sum": 1.75},
            "stalls": 1,
            "blocking": None,
            "heartbeat_at": {"io": datetime.fromtimestamp(1_700_000_050, UTC)},
            "worker_restarts": {"io": 2},
            "abandoned_at_stop": {"io": {"waiting": 4, "delayed": 2, "running": 1}},
            "broker_errors": {"pop": 4},
            "backend_errors": {"store": 5},
            "watchers": 2,
            "subscriber_dropped": 6,
            "subscriber_errors": 8,
        }
        self.scheduler: Any = {
            "running": True,
            "check_interval": 60.0,
            "total_schedules": 5,
            "enabled_schedules": 4,
            "disabled_schedules": 1,
            "overdue_schedules": 2,
            "broken_schedules": 1,
            "next_run_at": datetime.fromtimestamp(1_700_000_200, UTC),
            "store": "db:5432/shop",
        }
        self.schedule_runs: Any = {
            "running": True,
            "runs": {"report": {"submitted": 7, "missed": 1, "collapsed": 3, "skipped": 0, "failed": 2}},
            "lag": {"bounds": (0.1, 1.0), "counts": (6, 1, 0), "sum": 0.75},
            "store_errors": {"claim": 4},
        }
        self.schedules: Any = [schedule("nightly"), schedule("often", schedule_type="interval", last_run_at=None)]

    async def get_queue_stats(self) -> Any:
        return await self._answer("get_queue_stats", self.queues)

    async def list_queues(self) -> Any:
        listed = [{"queue": "default", "executor": kind, **each} for kind, each in self.queues.items() if each]
        return await self._answer("list_queues", listed)

    async def list_workers(self) -> Any:
        return await self._answer("list_workers", self.workers)

    async def get_task_stats(self) -> Any:
        self.calls["get_task_stats"] = self.calls.get("get_task_stats", 0) + 1
        return self.tasks

    async def get_runtime_stats(self) -> Any:
        return self.runtime

    async def get_scheduler_stats(self) -> Any:
        return await self._answer("get_scheduler_stats", self.scheduler)

    async def get_schedule_run_stats(self) -> Any:
        return self.schedule_runs

    async def list_schedules(self, enabled_only: bool = False) -> Any:
        listed = [each for each in self.schedules if each["enabled"] or not enabled_only]
        return await self._answer("list_schedules", listed)

    async def list_registered_tasks(self) -> Any:
        tasks = [
            {"name": name, "cpu_bound": task["executor"] == "cpu", "max_retries": 3, "retry_delay": 1.0}
            for name, task in self.tasks.items()
        ]
        return await self._answer("list_registered_tasks", tasks)


async def never() -> None:
    """Waits until it's cancelled."""
    await asyncio.Event().wait()


async def broken() -> None:
    """Fails as a lost connection does."""
    raise ConnectionError("connection lost")
