"""From where on a figure is worth a look, and from where on it is bad: the numbers of the alerts."""

from __future__ import annotations

from deploy.prometheus import thresholds
from grafana.colors import BAD, GOOD, UNKNOWN, WARNING
from grafana.panels import Text, Threshold, from_bad, from_warning_and_bad

FAILURES = from_warning_and_bad(thresholds.FAILURE_BUDGET, thresholds.FAILURE_BUDGET * thresholds.SLOW_BURN)
RETRIES = [Threshold(thresholds.RETRY_RATIO, WARNING)]
OLDEST_WAITING = from_warning_and_bad(thresholds.OLDEST_TASK_AGE / 5, thresholds.OLDEST_TASK_AGE)
LONGEST_RUNNING = from_warning_and_bad(thresholds.TASK_HUNG_AGE / 4, thresholds.TASK_HUNG_AGE)
BUSY = [Threshold(thresholds.SATURATION_RATIO, WARNING)]
BROKER_MEMORY = [Threshold(thresholds.BROKER_MEMORY_RATIO, BAD)]
HEARTBEAT = [Threshold(thresholds.HEARTBEAT_LOST, BAD)]
# A stall is a second.
LOOP_LAG = from_warning_and_bad(0.1, 1.0)
ANY = from_bad(1)

DOWN_OR_UP = {"0": Text("down", BAD), "1": Text("up", GOOD)}
UNHEALTHY_OR_HEALTHY = {"0": Text("unhealthy", BAD), "1": Text("healthy", GOOD)}
BLOCKED_OR_TURNING = {"0": Text("blocked", BAD), "1": Text("turns", GOOD)}
FAILED_OR_FINE = {"0": Text("failed", BAD), "1": Text("fine", GOOD)}
PAUSED = {"0": Text("", "transparent"), "1": Text("paused", WARNING)}
NO_SCHEDULER = {"-1": Text("no scheduler", UNKNOWN)}
