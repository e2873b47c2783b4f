"""The JSON API: a table of endpoints, from which the routes and the OpenAPI document are made."""

from flowrra_exporter.web.api.events import EventRoutes
from flowrra_exporter.web.api.routes import METHODS, ApiRoutes

__all__ = ["METHODS", "ApiRoutes", "EventRoutes"]
