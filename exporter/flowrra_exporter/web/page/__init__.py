"""The status page at ``/``: HTML from the figures of a collection, useful without JavaScript."""

from flowrra_exporter.web.page.route import PageRoute
from flowrra_exporter.web.page.view import Viewer

__all__ = ["PageRoute", "Viewer"]
