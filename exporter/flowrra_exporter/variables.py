"""Environment variables that look like the exporter's, and are none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from flowrra_exporter.options import ENVIRONMENT_PREFIX
from flowrra_exporter.suggestions import did_you_mean

# The names of Services and of their ports have at most 63 characters: without a bound, a long name would take for ever.
_OF_A_SERVICE = re.compile(
    r"FLOWRRA_EXPORTER(_\w{1,63})?_(SERVICE_HOST|SERVICE_PORT(_\w{1,63})?|PORT_\d{1,5}_\w{1,63})"
)
_PORT_OF_A_SERVICE = re.compile(r"FLOWRRA_EXPORTER(_\w{1,63})?_PORT")
_LINK = re.compile(r"(tcp|udp|sctp)://")


def unknown_variables(environment: Mapping[str, str], known: Sequence[str]) -> list[str]:
    """The names with the exporter's prefix that are not known.

    But for what Kubernetes sets in each container beside a Service named flowrra-exporter:
    https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
    """
    return [
        name
        for name in sorted(environment)
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known and not _is_of_a_service(name, environment[name])
    ]


def unknown_variable(name: str, known: Sequence[str]) -> str:
    """What is said of one."""
    return f"the variable {name} is none of the exporter's, and ignored{did_you_mean(name, known)}"


def _is_of_a_service(name: str, value: str) -> bool:
    return bool(_OF_A_SERVICE.fullmatch(name) or (_PORT_OF_A_SERVICE.fullmatch(name) and _LINK.match(value)))
