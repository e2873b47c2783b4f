"""What --print-config prints: every setting in force as YAML, in the form that --config.file takes.

Secrets in URLs are hidden.
"""

from __future__ import annotations

from typing import Any

from flowrra_exporter.settings import OPTIONS, Address, Settings
from flowrra_exporter.urls import without_credentials


def effective_config(settings: Settings) -> str:
    """The settings as YAML. What isn't set, and has no default of the exporter's, is null."""
    import yaml

    values = {option.flag.removeprefix("--"): _plain(getattr(settings, option.name)) for option in OPTIONS}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Address):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return without_credentials(value)
    return value
