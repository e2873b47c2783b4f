"""flowrra on Redis with a queue over four partitions; see redis_engine.py."""

from __future__ import annotations

import redis_flowrra
from redis_flowrra import drain, latency, serve, submit, submit_many

__all__ = ["drain", "latency", "serve", "submit", "submit_many"]

redis_flowrra.PARTITIONS = 4
