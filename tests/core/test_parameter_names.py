"""Programs that were written for 0.1.8 give its parameters by position or by name. (But what is given to ``submit`` by
name is the task's own.)"""

from __future__ import annotations

import importlib
import inspect
from operator import attrgetter

import pytest

OF_0_1_8 = {
    "flowrra:Flowrra": "config",
    "flowrra:Flowrra.create_scheduler": "backend check_interval",
    "flowrra:Flowrra.from_urls": "broker backend",
    "flowrra:Flowrra.get_result": "task_id",
    "flowrra:Flowrra.stop": "wait timeout",
    "flowrra:Flowrra.task": "name cpu_bound",
    "flowrra:Flowrra.wait_for_result": "task_id timeout",
    "flowrra:Config": "broker backend executor scheduler",
    "flowrra:Config.create_broker": "queue_suffix",
    "flowrra:Config.from_env": "prefix",
    "flowrra:BrokerConfig": "url max_connections socket_timeout retry_on_timeout queue_key",
    "flowrra:BrokerConfig.create_broker": "queue_suffix",
    "flowrra:BackendConfig": "url ttl max_connections socket_timeout retry_on_timeout",
    "flowrra:ExecutorConfig": "io_workers cpu_workers max_queue_size max_retries retry_delay",
    "flowrra:Task": "id name args kwargs max_retries retry_delay current_retry priority cpu_bound",
    "flowrra:TaskResult": (
        "task_id status task_name result error submitted_at started_at finished_at retries args kwargs"
    ),
    "flowrra:TaskResult.from_dict": "data",
    "flowrra:TaskRegistry": "strict_cpu_checks",
    "flowrra:TaskRegistry.get": "name",
    "flowrra:TaskRegistry.get_or_raise": "name",
    "flowrra:TaskRegistry.is_registered": "name",
    "flowrra:TaskRegistry.task": "name cpu_bound max_retries retry_delay",
    "flowrra:TaskRegistry.unregister": "name",
    "flowrra:IOExecutor": "config registry",
    "flowrra:IOExecutor.get_result": "task_id",
    "flowrra:IOExecutor.stop": "wait timeout",
    "flowrra:IOExecutor.task": "name max_retries retry_delay",
    "flowrra:IOExecutor.wait_for_result": "task_id timeout",
    "flowrra:CPUExecutor": "config registry",
    "flowrra:CPUExecutor.get_result": "task_id",
    "flowrra:CPUExecutor.stop": "wait timeout",
    "flowrra:CPUExecutor.task": "name max_retries retry_delay",
    "flowrra:CPUExecutor.wait_for_result": "task_id timeout",
    "flowrra:TaskTimeoutError": "task_id timeout",
    "flowrra:TaskNotFoundError": "task_name",
    "flowrra.config:SchedulerConfig": "database_url check_interval enabled",
    "flowrra.events:EventBus.async_subscribe": "fn",
    "flowrra.events:EventBus.emit": "event",
    "flowrra.events:EventBus.subscribe": "fn",
    "flowrra.events:EventBus.unsubscribe": "fn",
    "flowrra.backends:InMemoryBackend.delete": "task_id",
    "flowrra.backends:InMemoryBackend.get": "task_id",
    "flowrra.backends:InMemoryBackend.list_by_status": "status limit offset",
    "flowrra.backends:InMemoryBackend.store": "task_id result",
    "flowrra.backends:InMemoryBackend.wait_for": "task_id timeout",
    "flowrra.backends:get_backend": "backend",
    "flowrra.backends.redis:RedisBackend": "url ttl",
    "flowrra.backends.redis:RedisBackend.delete": "task_id",
    "flowrra.backends.redis:RedisBackend.get": "task_id",
    "flowrra.backends.redis:RedisBackend.list_by_status": "status limit offset",
    "flowrra.backends.redis:RedisBackend.store": "task_id result",
    "flowrra.backends.redis:RedisBackend.wait_for": "task_id timeout",
    "flowrra.brokers.redis:RedisBroker": "url max_connections socket_timeout retry_on_timeout queue_key",
    "flowrra.brokers.redis:RedisBroker.pop": "timeout",
    "flowrra.brokers.redis:RedisBroker.push": "task",
    "flowrra.brokers.factory:get_broker": "broker",
    "flowrra.scheduler:Scheduler": "backend registry check_interval io_executor cpu_executor",
    "flowrra.scheduler:Scheduler.disable_task": "task_id",
    "flowrra.scheduler:Scheduler.enable_task": "task_id",
    "flowrra.scheduler:Scheduler.get_scheduled_task": "task_id",
    "flowrra.scheduler:Scheduler.schedule_cron": (
        "task_name cron args kwargs enabled description max_retries retry_delay priority task_id"
    ),
    "flowrra.scheduler:Scheduler.schedule_interval": (
        "task_name interval args kwargs enabled description max_retries retry_delay priority task_id"
    ),
    "flowrra.scheduler:Scheduler.schedule_once": (
        "task_name run_at args kwargs description max_retries retry_delay priority task_id"
    ),
    "flowrra.scheduler:Scheduler.set_submit_callback": "callback",
    "flowrra.scheduler:Scheduler.unschedule": "task_id",
    "flowrra.scheduler:ScheduledTask": (
        "id task_name schedule_type schedule args kwargs enabled "
        "last_run_at next_run_at created_at updated_at description max_retries retry_delay priority"
    ),
    "flowrra.scheduler:ScheduledTask.from_dict": "data",
    "flowrra.scheduler:CronExpression": "expression",
    "flowrra.scheduler:CronExpression.matches": "dt",
    "flowrra.scheduler:CronExpression.next_run": "after",
    "flowrra.scheduler.backends.sqlite:SQLiteSchedulerBackend": "database_path",
    "flowrra.scheduler.backends.sqlite:SQLiteSchedulerBackend.create": "task",
    "flowrra.scheduler.backends.sqlite:SQLiteSchedulerBackend.delete": "task_id",
    "flowrra.scheduler.backends.sqlite:SQLiteSchedulerBackend.find_by_definition": (
        "task_name schedule_type schedule args kwargs"
    ),
    "flowrra.scheduler.backends.sqlite:SQLiteSchedulerBackend.get": "task_id",
    "flowrra.scheduler.backends.sqlite:SQLiteSchedulerBackend.list_due": "now",
    "flowrra.scheduler.backends.sqlite:SQLiteSchedulerBackend.update": "task",
    "flowrra.scheduler.backends.sqlite:SQLiteSchedulerBackend.update_run_times": "task_id last_run next_run",
    "flowrra.scheduler.backends:get_scheduler_backend": "url",
    "flowrra.management:FlowrraManager": "app",
    "flowrra.management:FlowrraManager.create_schedule_cron": (
        "task_name cron args kwargs enabled description priority"
    ),
    "flowrra.management:FlowrraManager.create_schedule_interval": (
        "task_name interval args kwargs enabled description priority"
    ),
    "flowrra.management:FlowrraManager.delete_schedule": "schedule_id",
    "flowrra.management:FlowrraManager.disable_schedule": "schedule_id",
    "flowrra.management:FlowrraManager.enable_schedule": "schedule_id",
    "flowrra.management:FlowrraManager.get_schedule": "schedule_id",
    "flowrra.management:FlowrraManager.get_task_info": "task_name",
    "flowrra.management:FlowrraManager.get_task_result": "task_id",
    "flowrra.management:FlowrraManager.list_completed_tasks": "limit",
    "flowrra.management:FlowrraManager.list_failed_tasks": "limit",
    "flowrra.management:FlowrraManager.list_pending_tasks": "limit",
    "flowrra.management:FlowrraManager.list_running_tasks": "limit",
    "flowrra.management:FlowrraManager.list_schedules": "enabled_only",
}


@pytest.mark.parametrize(("where", "names"), OF_0_1_8.items(), ids=OF_0_1_8.keys())
def test_are_those_of_0_1_8_and_further_ones_come_after_them_or_by_name(where: str, names: str) -> None:
    module, _, path = where.partition(":")
    found = list(inspect.signature(attrgetter(path)(importlib.import_module(module))).parameters.values())
    if found[0].name == "self":
        del found[0]
    expected, rest = found[: len(names.split())], found[len(names.split()) :]

    assert [each.name for each in expected] == names.split()
    assert {each.kind for each in expected} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert [each.name for each in rest if each.default is each.empty and "VAR" not in each.kind.name] == []
