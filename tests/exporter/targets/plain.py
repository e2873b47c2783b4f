"""Apps in every form that the command takes, and things that are no app."""

import sys
from typing import Any

from flowrra import Flowrra
from flowrra.management import FlowrraManager


class Duck:
    """Its own manager, without start and stop."""

    async def get_stats(self) -> dict[str, Any]:
        return {"app": {"running": True}, "executors": {}, "tasks": {"registered": 0, "pending": 0}}

    async def health_check(self) -> dict[str, Any]:
        return {"healthy": True, "timestamp": None, "components": {}}


class Holder:
    app = Flowrra()


class Unstartable(Duck):
    async def start(self) -> None:
        raise OSError("no such\nbroker redis://:s3cret@host")


class Leaves(Duck):
    async def start(self) -> None:
        sys.exit("no configuration")


app = Flowrra()
duck = Duck()
holder = Holder()
unstartable = Unstartable()
leaves = Leaves()
manager = FlowrraManager(app)
number = 17


def make() -> Flowrra:
    return Flowrra()


def make_for(stage: str, region: str, *, debug: bool = False) -> Flowrra:
    raise AssertionError((stage, region, debug))


async def make_later() -> Flowrra:
    return Flowrra()


def make_number() -> int:
    return number


def fail() -> Flowrra:
    raise ValueError("no\nway")
