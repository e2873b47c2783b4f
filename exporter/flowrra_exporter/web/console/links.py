"""Names and ids that lead to the page which tells more, where there is one."""

from __future__ import annotations

from flowrra_exporter.web.console.context import Context
from flowrra_exporter.web.console.html import Html, element
from flowrra_exporter.web.console.parts import name


def to_tasks(context: Context, task_name: str) -> Html:
    """A task's name, which leads to the tasks of that name."""
    if "/tasks" not in context.pages:
        return name(task_name)
    return element("a", name(task_name), href=context.link("/tasks", name=task_name))


def fits_a_path(thing: str) -> bool:
    """Whether an id can stand in a path; else it goes into the query.

    Proxies change slashes even if they are quoted, and browsers take dots for a folder, however they are written.
    """
    return thing not in (".", "..") and "/" not in thing


def url_of(context: Context, pages: str, thing: str) -> str:
    """The page about one thing of a list, by its id: ``url_of(context, "/tasks", task_id)``."""
    return context.link(pages, thing) if fits_a_path(thing) else context.link(pages, id=thing)


def to_task(context: Context, task_id: str) -> Html:
    """A task's id, which leads to its own page."""
    text = element("code", name(task_id))
    if "/tasks/{id}" not in context.pages:
        return text
    return element("a", text, href=url_of(context, "/tasks", task_id))


def to_worker(context: Context, worker: str) -> Html:
    """A worker's id, which leads to its place on the page of all workers."""
    text = element("code", worker)
    if "/workers" not in context.pages:
        return text
    return element("a", text, href=f"{context.link('/workers')}#{worker_anchor(worker)}")


def worker_anchor(worker: str) -> str:
    """The id of the element about a worker."""
    return f"worker-{worker}"
