"""What runs tasks."""

from flowrra.executors.base import BaseTaskExecutor
from flowrra.executors.cpu_executor import CPUExecutor
from flowrra.executors.io_executor import IOExecutor

__all__ = ["BaseTaskExecutor", "CPUExecutor", "IOExecutor"]
