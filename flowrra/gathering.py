"""Asks several at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

Answer = TypeVar("Answer")


async def gather_all(requests: Iterable[Awaitable[Answer]]) -> list[Answer]:
    """The answers to requests that are made at once, in their order: of all of them, or none.

    Nothing of it goes on afterwards: if one fails, the others are waited for, and if the caller is cancelled, they are.

    Raises:
        What the first of those that failed did.
    """
    answers = await asyncio.gather(*requests, return_exceptions=True)
    return [_value(answer) for answer in answers]


def _value(answer: Answer | BaseException) -> Answer:
    if isinstance(answer, BaseException):
        raise answer
    return answer
