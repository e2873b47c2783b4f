"""An app whose start makes schedules: cron, every second, once, and a disabled one. FOLDER has its database."""

import os
from datetime import datetime, timedelta

from flowrra import Flowrra

os.chdir(os.environ["FOLDER"])  # 0.1.8 makes a relative path of any
app = Flowrra()


@app.task()
async def report() -> None: ...


scheduler = app.create_scheduler("schedules.db")
start = app.start


async def start_with_schedules() -> None:
    await start()
    await scheduler.schedule_cron("report", "0 3 * * *", task_id="nightly")
    await scheduler.schedule_interval("report", 1, task_id="often")
    await scheduler.schedule_cron("report", "0 4 * * *", enabled=False)
    await scheduler.schedule_once("report", datetime.now() + timedelta(hours=1))  # noqa: DTZ005 - local times


app.start = start_with_schedules  # type: ignore[method-assign]
