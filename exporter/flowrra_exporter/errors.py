"""What ends the command with one line on standard error and exit status 2."""

from __future__ import annotations


class UsageError(Exception):
    """A wrong flag, variable, address or target. Its text is the one line that the user sees."""
