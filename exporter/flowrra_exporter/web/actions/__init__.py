"""What clients may do: a table of actions, and the two ways to them, a form of the page and the JSON API."""

from flowrra_exporter.web.actions.routes import Actions, Outcome
from flowrra_exporter.web.actions.table import ACTIONS_BY_NAME, Action

__all__ = ["ACTIONS_BY_NAME", "Action", "Actions", "Outcome"]
