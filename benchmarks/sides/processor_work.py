"""What the processes of the CPU benchmark are given to do: a fixed amount of work, not of time."""

from __future__ import annotations

STEPS = 1_500_000


def work(steps: int) -> int:
    """Keeps one processor busy."""
    total = 0
    for step in range(steps):
        total += step * step % 7
    return total


def no_op() -> None:
    """Nothing."""
