"""Sets the bounds of the app's histograms, before it counts anything."""

from __future__ import annotations

from flowrra_exporter.app.management import Management
from flowrra_exporter.errors import UsageError
from flowrra_exporter.settings import Settings

_METHOD = "set_histogram_bounds"


def set_bounds(management: Management, settings: Settings) -> None:
    """Has the app count with the bounds that the settings have.

    Raises:
        UsageError: The app can't any more, or never could.
    """
    chosen = {
        "run_duration": settings.histogram_run_duration_bounds,
        "queue_wait": settings.histogram_queue_wait_bounds,
        "loop_lag": settings.histogram_loop_lag_bounds,
    }
    given = {name: bounds for name, bounds in chosen.items() if bounds is not None}
    if not given:
        return
    flags = ", ".join(f"--histogram.{name.replace('_', '-')}-bounds" for name in given)
    if not management.has(_METHOD):
        raise UsageError(f"{flags}: this app has no {_METHOD}(); its histograms have the bounds that they have")
    try:
        management.read(_METHOD, **given)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"{flags}: {error}") from error
