"""Where waiting tasks live."""

from flowrra.brokers.base import BaseBroker

__all__ = ["BaseBroker"]
