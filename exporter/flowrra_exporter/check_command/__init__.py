"""``flowrra-exporter check``: says what is right and what is wrong, before it is run or while it serves.

A file for each thing that is looked at: the configuration, the app, the endpoint; below the endpoint the formats, the
families, the conventions of names, the exporter's own series, and the probes.
"""

from flowrra_exporter.check_command.command import CheckCommand

__all__ = ["CheckCommand"]
