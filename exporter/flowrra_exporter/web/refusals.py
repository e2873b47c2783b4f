"""What is said of errors that the Management API raises: the status, and a text that quotes nothing of users' tasks."""

from __future__ import annotations

from types import TracebackType

from flowrra_exporter.logs import mask_secrets

_MAX_TEXT = 500


def status_of(error: Exception) -> int:
    """404 for what there isn't, 409 for what can't be done as things are, 503 for what may be done later."""
    names = {each.__name__ for each in type(error).__mro__}
    if isinstance(error, LookupError) or "TaskNotFoundError" in names:
        return 404
    if isinstance(error, ValueError) or "ExecutorNotRunningError" in names:
        return 409
    return 503


def text_of(method: str, error: Exception, shown: bool) -> str:
    """What flowrra says of it; of what the user's code raised, which may quote arguments, the class alone.

    Args:
        method: The method that raised it.
        error: What was raised.
        shown: The client may see what tasks were given and what they raised.
    """
    if shown or is_of_flowrra(error):
        return mask_secrets(str(error))[:_MAX_TEXT] or type(error).__name__
    return f"{method}() failed: {type(error).__name__}"


def is_of_flowrra(error: Exception) -> bool:
    """Whether flowrra's own code raised it."""
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    module = "" if traceback is None else str(traceback.tb_frame.f_globals.get("__name__"))
    return module.partition(".")[0] in ("flowrra", "flowrra_exporter")
