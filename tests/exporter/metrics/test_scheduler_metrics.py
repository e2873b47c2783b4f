"""The scheduler's families, against a stand-in for the Management API, and once against a real scheduler."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from flowrra import Flowrra
from flowrra.management import FlowrraManager
from flowrra.scheduler.scheduler import RESULTS
from tests.exporter.conftest import Answer, Serve
from tests.exporter.contract import ContractApp, broken, schedule

RUNS = "flowrra_scheduler_runs_total"
NEXT, LAST = "flowrra_schedule_next_run_timestamp_seconds", "flowrra_schedule_last_run_timestamp_seconds"
UPDATED = "flowrra_schedule_updated_timestamp_seconds"
PERIOD = "flowrra_schedule_period_seconds"


def families(answer: Answer) -> set[str]:
    return {name for name, _ in answer.samples if name.startswith("flowrra_schedule")}


async def test_each_figure_of_the_scheduler_is_served(serve: Serve) -> None:
    scrape = await (await serve(ContractApp())).get()
    assert scrape.value("flowrra_scheduler_info", store="db:5432/shop") == 1
    assert scrape.value("flowrra_scheduler_running") == 1
    assert scrape.value("flowrra_scheduler_schedules", state="enabled") == 4
    assert scrape.value("flowrra_scheduler_schedules", state="disabled") == 1
    assert scrape.value("flowrra_scheduler_overdue_schedules") == 2
    assert scrape.value("flowrra_scheduler_broken_schedules") == 1
    assert scrape.value("flowrra_scheduler_next_run_timestamp_seconds") == 1_700_000_200
    for result, count in {"submitted": 7, "missed": 1, "collapsed": 3, "skipped": 0, "failed": 2}.items():
        assert scrape.value(RUNS, task="report", result=result) == count
    assert scrape.value("flowrra_scheduler_lag_seconds_bucket", le="0.1") == 6
    assert scrape.value("flowrra_scheduler_lag_seconds_count") == 7
    assert scrape.value("flowrra_scheduler_lag_seconds_sum") == 0.75
    assert scrape.value("flowrra_scheduler_store_errors_total", operation="claim") == 4


async def test_a_schedules_local_times_are_served_as_instants(serve: Serve) -> None:
    scrape = await (await serve(ContractApp())).get()
    assert scrape.value(NEXT, schedule="nightly", task="report") == 1_700_000_300
    assert scrape.value(LAST, schedule="nightly", task="report") == 1_699_999_000
    assert scrape.value(UPDATED, schedule="nightly", task="report") == 1_690_000_000


async def test_a_schedule_is_described_in_few_words(serve: Serve) -> None:
    app = ContractApp()
    app.schedules = [
        schedule("nightly", description="x" * 101),
        schedule("often", schedule_type="interval", schedule="60"),
    ]
    scrape = await (await serve(app)).get()
    described = {"schedule": "nightly", "task": "report", "description": "x" * 100, "runs": "cron 0 3 * * *"}
    assert scrape.value("flowrra_schedule_info", **described) == 1
    labels = {"schedule": "often", "task": "report", "description": "", "runs": "interval 60"}
    assert scrape.value("flowrra_schedule_info", **labels) == 1


async def test_no_label_has_a_password_of_a_url_in_a_text(serve: Serve) -> None:
    """Nor the beginning of one, where the text is cut off."""
    app = ContractApp()
    app.scheduler["store"] = "postgresql://u:s3cret@db/shop"
    app.queues["io"]["server"] = "redis://:s3cret@valkey/0"
    app.schedules = [
        schedule("nightly", description="pulls https://bot:s3cret@git.example/r.git?token=s3cret"),
        schedule("often", description=f"{'x' * 80} https://bot:{'s3cret' * 9}@git.example"),
    ]
    scrape = await (await serve(app)).get()
    assert "s3cret" not in scrape.text
    assert scrape.value("flowrra_scheduler_info", store="postgresql://***@db/shop") == 1
    told = {dict(labels)["description"] for name, labels in scrape.samples if name == "flowrra_schedule_info"}
    assert told == {"pulls https://***@git.example/r.git?token=***", f"{'x' * 80} https://***@git.exa"}


async def test_an_app_that_does_not_tell_its_store_has_an_empty_one(serve: Serve) -> None:
    app = ContractApp()
    del app.scheduler["store"]
    assert (await (await serve(app)).get()).value("flowrra_scheduler_info", store="") == 1


async def test_a_schedule_that_never_ran_has_no_last_run(serve: Serve) -> None:
    scrape = await (await serve(ContractApp())).get()
    assert scrape.value(NEXT, schedule="often", task="report") == 1_700_000_300
    assert scrape.value(LAST, schedule="often", task="report") is None


async def test_the_period_of_a_schedule_is_served_where_it_is_known(serve: Serve) -> None:
    app = ContractApp()
    app.schedules = [schedule("nightly"), schedule("unread", period=None)]
    scrape = await (await serve(app)).get()
    assert scrape.value(PERIOD, schedule="nightly", task="report") == 86_400
    assert scrape.value(PERIOD, schedule="unread", task="report") is None


async def test_only_enabled_schedules_that_repeat_have_series_of_their_own(serve: Serve) -> None:
    app = ContractApp()
    app.schedules = [schedule("off", enabled=False), schedule("once", schedule_type="one_time"), schedule("nightly")]
    scrape = await (await serve(app)).get()
    assert scrape.value("flowrra_collector_success", collector="scheduler") == 1
    assert [dict(labels)["schedule"] for name, labels in scrape.samples if name == NEXT] == ["nightly"]


async def test_the_200_oldest_schedules_have_series_and_the_rest_is_counted_as_dropped(serve: Serve) -> None:
    app = ContractApp()
    first = datetime(2026, 1, 1)  # noqa: DTZ001 - a local time
    app.schedules = [schedule(f"s{i}", created_at=first + timedelta(days=i)) for i in reversed(range(203))]
    scrape = await (await serve(app)).get()
    named = {dict(labels)["schedule"] for name, labels in scrape.samples if name == NEXT}
    assert named == {f"s{i}" for i in range(200)}
    assert scrape.value("flowrra_exporter_series_dropped") == 15


async def test_a_great_many_schedules_are_not_listed(serve: Serve) -> None:
    app = ContractApp()
    app.scheduler["enabled_schedules"] = 100_000
    scrape = await (await serve(app)).get()
    assert "list_schedules" not in app.calls
    assert scrape.value("flowrra_scheduler_schedules", state="enabled") == 100_000
    assert scrape.value("flowrra_exporter_series_dropped") == 500_000


async def test_a_store_that_is_away_costs_what_it_knows_and_nothing_else(serve: Serve) -> None:
    app = ContractApp()
    service = await serve(app)
    app.before["get_scheduler_stats"] = broken
    scrape = await service.get()
    assert scrape.value("flowrra_collector_success", collector="scheduler") == 0
    assert families(scrape) == {
        RUNS,
        "flowrra_scheduler_running",
        "flowrra_scheduler_store_errors_total",
        *(f"flowrra_scheduler_lag_seconds_{suffix}" for suffix in ("bucket", "count", "sum")),
    }
    assert scrape.value("flowrra_scheduler_running") == 1
    assert scrape.value("flowrra_healthy") == 1
    del app.before["get_scheduler_stats"]
    assert (await service.get()).value("flowrra_scheduler_running") == 1


async def test_a_list_that_fails_costs_the_single_schedules(serve: Serve) -> None:
    app = ContractApp()
    app.before["list_schedules"] = broken
    scrape = await (await serve(app)).get()
    assert scrape.value("flowrra_collector_success", collector="scheduler") == 0
    assert scrape.value(RUNS, task="report", result="submitted") == 7
    assert scrape.value("flowrra_scheduler_running") == 1
    assert not {NEXT, LAST} & families(scrape)


async def test_an_app_without_a_scheduler_has_none_of_its_families(serve: Serve) -> None:
    app = ContractApp()
    app.scheduler = app.schedule_runs = None
    scrape = await (await serve(app)).get()
    assert families(scrape) == set()
    assert scrape.value("flowrra_collector_success", collector="scheduler") == 1


async def test_figures_that_an_older_flowrra_does_not_have_are_absent(serve: Serve) -> None:
    app = ContractApp()
    app.scheduler = {
        key: app.scheduler[key] for key in ("running", "check_interval", "enabled_schedules", "disabled_schedules")
    }
    app.schedule_runs = None
    scrape = await (await serve(app)).get()
    known = {"flowrra_scheduler_info", "flowrra_scheduler_running", "flowrra_scheduler_schedules"}
    assert families(scrape) == {*known, "flowrra_schedule_info", NEXT, LAST, PERIOD, UPDATED}
    assert scrape.value("flowrra_collector_success", collector="scheduler") == 1


@pytest.mark.parametrize("nonsense", [7, {"running": "yes"}, {"next_run_at": "soon"}])
async def test_nonsense_is_a_failure_of_the_collector(serve: Serve, nonsense: Any) -> None:
    app = ContractApp()
    app.scheduler = nonsense
    scrape = await (await serve(app)).get()
    assert scrape.value("flowrra_collector_success", collector="scheduler") == 0
    assert scrape.value("flowrra_healthy") == 1


async def test_the_figures_of_an_app_with_schedules_are_served(serve: Serve) -> None:
    app = Flowrra()
    app.create_scheduler("sqlite:///:memory:")

    @app.task()
    async def report() -> None: ...

    manager = FlowrraManager(app)
    async with app:
        nightly = await manager.create_schedule_cron("report", "0 3 * * *")
        await manager.create_schedule_cron("report", "@yearly", enabled=False)
        await manager.trigger_schedule(nightly)
        listed = await manager.get_schedule(nightly)
        scrape = await (await serve(app)).get()
    assert scrape.value("flowrra_scheduler_running") == 1
    assert scrape.value("flowrra_scheduler_schedules", state="enabled") == 1
    assert scrape.value("flowrra_scheduler_schedules", state="disabled") == 1
    counts = {result: scrape.value(RUNS, task="report", result=result) for result in RESULTS}
    assert counts == {"submitted": 1, "missed": 0, "collapsed": 0, "skipped": 0, "failed": 0}
    assert scrape.value("flowrra_scheduler_lag_seconds_count") == 1
    assert scrape.value("flowrra_scheduler_store_errors_total", operation="claim") == 0
    assert listed is not None
    assert scrape.value(NEXT, schedule=nightly, task="report") == listed["next_run_at"].timestamp()
    assert scrape.value("flowrra_scheduler_next_run_timestamp_seconds") == listed["next_run_at"].timestamp()
