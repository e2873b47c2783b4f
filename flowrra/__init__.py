"""Flowrra: asyncio background tasks, and a Management API that shows what they do."""

from flowrra._version import __version__
from flowrra.app import Flowrra
from flowrra.config import BackendConfig, BrokerConfig, Config, ExecutorConfig, SchedulerConfig
from flowrra.exceptions import (
    BackendError,
    ExecutorNotRunningError,
    FlowrraError,
    PartialSubmissionError,
    Reject,
    ResultNotFoundError,
    SerializationError,
    TaskImportError,
    TaskNotFoundError,
    TaskTimeoutError,
    WorkerLostError,
)
from flowrra.executors import CPUExecutor, IOExecutor
from flowrra.middleware import Middleware
from flowrra.registry import TaskRegistry
from flowrra.submission import SubmitOptions
from flowrra.task import Task, TaskResult, TaskStatus, current_task

__all__ = [
    "BackendConfig",
    "BackendError",
    "BrokerConfig",
    "CPUExecutor",
    "Config",
    "ExecutorConfig",
    "ExecutorNotRunningError",
    "Flowrra",
    "FlowrraError",
    "IOExecutor",
    "Middleware",
    "PartialSubmissionError",
    "Reject",
    "ResultNotFoundError",
    "SchedulerConfig",
    "SerializationError",
    "SubmitOptions",
    "Task",
    "TaskImportError",
    "TaskNotFoundError",
    "TaskRegistry",
    "TaskResult",
    "TaskStatus",
    "TaskTimeoutError",
    "WorkerLostError",
    "__version__",
    "current_task",
]
