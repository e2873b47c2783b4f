"""What colours mean, on every dashboard: how a thing went, or how bad it is."""

from __future__ import annotations

GOOD, WARNING, BAD = "green", "orange", "red"
# There is no answer, or nothing to judge.
UNKNOWN = "#7b8087"
# A figure that is neither good nor bad.
PLAIN = "blue"

OUTCOMES = {
    "succeeded": "green",
    "failed": "red",
    "retried": "orange",
    "cancelled": "#9e9e9e",
    "released": "purple",
    "timed out": "dark-red",
    "redelivered": "yellow",
}
# What becomes of a due time of a schedule.
RUNS = {
    "submitted": "green",
    "failed": "red",
    "missed": "dark-red",
    "skipped": "orange",
    "collapsed": "#9e9e9e",
}
