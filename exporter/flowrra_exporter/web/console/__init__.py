"""The console at ``/``: pages of HTML about the app and its tasks, useful without JavaScript."""

from flowrra_exporter.web.console.document import Endpoint
from flowrra_exporter.web.console.pages import pages
from flowrra_exporter.web.console.routes import ConsoleRoutes
from flowrra_exporter.web.console.view import Identity, Viewer

__all__ = ["ConsoleRoutes", "Endpoint", "Identity", "Viewer", "pages"]
