"""A program that runs an app, and asks the Management API what it does; run it as a script."""

from __future__ import annotations

import asyncio

from flowrra import Flowrra
from flowrra.management import FlowrraManager

app = Flowrra()


@app.task(max_retries=2, retry_delay=0.1)
async def fetch_page(url: str) -> str:
    """Pretends to fetch a page."""
    await asyncio.sleep(0.05)
    return f"<title>{url}</title>"


@app.task(max_retries=1, retry_delay=0.1)
async def parse_feed(url: str) -> None:
    """Fails each time."""
    raise ValueError(f"{url} is no feed")


async def show_system(manager: FlowrraManager) -> None:
    """Executors, and how many tasks there are."""
    stats = await manager.get_stats()
    executor = stats["executors"]["io"]
    print(f"running: {stats['app']['running']}")
    if executor is not None:
        print(f"workers: {executor['busy']} of {executor['workers']} busy")
    print(f"tasks:   {stats['tasks']['registered']} registered, {stats['tasks']['pending']} pending")


async def show_tasks(manager: FlowrraManager) -> None:
    """Every registered task, with its configuration and with what became of it so far."""
    counts = await manager.get_task_stats()
    for task in await manager.list_registered_tasks():
        info, count = await manager.get_task_info(task["name"]), counts[task["name"]]
        if info is not None:
            print(f"{info['name']}: {info['module']}.{info['qualname']}, {info['max_retries']} retries")
        print(f"  {count['started']} attempts: {count['succeeded']} succeeded, {count['retried']} retried,", end=" ")
        print(f"{count['failed']} failed; exceptions: {count['exceptions']}")


async def show_result(manager: FlowrraManager, task_id: str) -> None:
    """What one task came to."""
    result = await manager.get_task_result(task_id)
    if result is not None:
        print(f"{result['task_name']}: {result['status']}, result={result['result']!r}, error={result['error']!r}")


async def show_health(manager: FlowrraManager) -> None:
    """Whether all is well, and what isn't."""
    health = await manager.health_check()
    print(f"healthy at {health['timestamp'].isoformat(timespec='seconds')}: {health['healthy']}")
    for name, component in health["components"].items():
        if component is not None:
            print(f"  {name}: {component['message']}")


async def main() -> None:
    """Submits a few tasks, and looks on."""
    manager = FlowrraManager(app)
    async with app:
        pages = [await app.submit(fetch_page, f"https://example.org/{number}") for number in range(10)]
        feed = await app.submit(parse_feed, "https://example.org/feed")
        await show_system(manager)
        for task_id in (*pages, feed):
            await app.wait_for_result(task_id, timeout=10)
        await show_tasks(manager)
        await show_result(manager, pages[0])
        await show_result(manager, feed)
        await show_health(manager)


if __name__ == "__main__":
    asyncio.run(main())
