"""The Management API: one surface to query and steer an app."""

from flowrra.management.manager import FlowrraManager

__all__ = ["FlowrraManager"]
