"""CPU-bound tasks behind the exporter's command: the same numbers as for all tasks, and nothing lost at the end."""

from __future__ import annotations

import os
import signal
import textwrap
import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.end_to_end.processes import Exporter, wait_for

SHOP = """
    import os
    import time
    from pathlib import Path

    from flowrra import Config, ExecutorConfig, Flowrra
    from flowrra.backends import InMemoryBackend

    app = Flowrra(Config(backend=InMemoryBackend(), executor=ExecutorConfig(cpu_workers=2)))


    @app.task(cpu_bound=True)
    def square(number):
        return number * number


    @app.task(cpu_bound=True, max_retries=0)
    def broken():
        raise ValueError("boom")


    @app.task(cpu_bound=True, max_retries=0)
    def die():
        os._exit(1)


    @app.task(cpu_bound=True, max_retries=0)
    def hold():
        Path("pid").write_text(str(os.getpid()))
        while not Path("release").exists():
            time.sleep(0.01)
        Path("finished").touch()


    @app.on_startup
    async def submit():
        for number in range(3):
            await app.submit(square, number)
        for task in (broken, die, hold):
            await app.submit(task)
"""


@pytest.mark.slow
def test_cpu_tasks_are_counted_and_a_service_manager_s_sigterm_loses_none(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(textwrap.dedent(SHOP))
    exporter = Exporter("shop:app", folder=tmp_path)
    try:

        def samples() -> dict[tuple[str, ...], float]:
            families = text_string_to_metric_families(exporter.get("/metrics"))
            wanted = [sample for family in families for sample in family.samples if "le" not in sample.labels]
            return {(each.name, *each.labels.values()): each.value for each in wanted}

        # The worker of die() is busy until another process has taken the place of its own.
        settled = {
            ("flowrra_tasks_running", "hold"): 1,
            ("flowrra_tasks_failed_total", "die"): 1,
            ("flowrra_executor_busy_workers", "cpu"): 1,
        }
        wait_for(lambda: (tmp_path / "pid").exists() or None, 10, "the process of hold()")
        wait_for(lambda: settled.items() <= samples().items() or None, 10, "the other tasks")
        seen = samples()
        pid = int((tmp_path / "pid").read_text())
        # systemd, for one, tells every process of a service.
        os.kill(pid, signal.SIGTERM)
        threading.Timer(0.5, (tmp_path / "release").touch).start()
        assert exporter.terminate() == 0
    finally:
        (tmp_path / "release").touch()
        exporter.close()

    assert (tmp_path / "finished").exists()
    assert seen["flowrra_executor_workers", "cpu"] == 2
    assert seen["flowrra_executor_worker_restarts_total", "cpu"] == 1
    assert seen["flowrra_tasks_succeeded_total", "square"] == 3
    assert seen["flowrra_tasks_failed_total", "broken"] == 1
    assert seen["flowrra_task_run_duration_seconds_count", "square", "success"] == 3
    assert ("flowrra_executor_workers", "io") not in seen
