"""An app whose tasks are traced: it runs one that is quick and one that isn't, and prints their traces."""

from __future__ import annotations

import asyncio

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from flowrra import Flowrra

NAPS = (0.0, 0.15)


class Told(SpanProcessor):
    """Prints each attempt's trace, once its span has ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Called by OpenTelemetry."""
        if span.name == "process nap":
            assert span.context is not None
            print(f"traced {span.context.trace_id:032x}", flush=True)


provider = TracerProvider()
provider.add_span_processor(Told())
trace.set_tracer_provider(provider)
app = Flowrra()


@app.task()
async def nap(seconds: float) -> None:
    """Sleeps."""
    await asyncio.sleep(seconds)


@app.on_startup
async def submit() -> None:
    """Submits the naps."""
    for seconds in NAPS:
        await app.submit(nap, seconds)
