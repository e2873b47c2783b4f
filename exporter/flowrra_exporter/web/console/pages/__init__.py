"""The pages of the console, each in a file of its own."""

from __future__ import annotations

from flowrra_exporter.web.console.page import Page
from flowrra_exporter.web.console.pages.confirm import Confirm
from flowrra_exporter.web.console.pages.dead import Dead
from flowrra_exporter.web.console.pages.names import Names
from flowrra_exporter.web.console.pages.overview import Overview
from flowrra_exporter.web.console.pages.queues import QueuesPage
from flowrra_exporter.web.console.pages.running import Running
from flowrra_exporter.web.console.pages.schedules import ScheduleDetails, SchedulesPage
from flowrra_exporter.web.console.pages.task_details import TaskDetails
from flowrra_exporter.web.console.pages.task_list import TaskList
from flowrra_exporter.web.console.pages.workers import Workers


def pages(max_series: int | None) -> list[Page]:
    """All pages, in the order of the navigation. ``max_series`` is what the overview says of it; None is no limit."""
    return [
        *(Overview(max_series), Names(), TaskList(), Running(), QueuesPage(), Dead(), Workers(), SchedulesPage()),
        # Those that the navigation leaves to the others.
        *(TaskDetails(), ScheduleDetails(), Confirm()),
    ]
