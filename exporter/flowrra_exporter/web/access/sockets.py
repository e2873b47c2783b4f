"""Binds the listening sockets before anything else happens, so that a port in use is heard of first."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence

from flowrra_exporter.errors import UsageError
from flowrra_exporter.options import Address
from flowrra_exporter.settings import DEFAULT_PORT

# How many connections wait in the system, if it lets them: beyond, a client tries again after a second.
_BACKLOG = 512
_ANY_IPV6 = "::"
_ANY_IPV4 = "0.0.0.0"  # noqa: S104 - what an empty host asks for


def bind(addresses: Sequence[Address], flag: str) -> list[socket.socket]:
    """Listening sockets for all addresses.

    Args:
        addresses: The addresses.
        flag: What they are chosen with.

    Raises:
        UsageError: One can't be had. The message names the first.
    """
    sockets: list[socket.socket] = []
    for address in addresses:
        try:
            sockets.extend(_bind(address, _ANY_IPV4 not in {other.host for other in addresses}))
        except (OSError, UnicodeError) as error:
            for opened in sockets:
                opened.close()
            raise UsageError(f"cannot listen on {address}: {_reason(error, address, flag)}") from error
    return sockets


def _reason(error: OSError | UnicodeError, address: Address, flag: str) -> str:
    reason = str(getattr(error, "strerror", None) or error)
    if getattr(error, "errno", None) != errno.EADDRINUSE:
        return reason
    # 9464 is what OpenTelemetry's Prometheus exporter listens on, too.
    holder = "an exporter of OpenTelemetry, which has the same default, or " if address.port == DEFAULT_PORT else ""
    return f"{reason}: by {holder}another flowrra-exporter? Choose another port with {flag}"


def url(bound: socket.socket, scheme: str = "http") -> str:
    """The address of a socket as a URL."""
    return f"{scheme}://{Address(*bound.getsockname()[:2])}"


def _bind(address: Address, ipv4_too: bool) -> list[socket.socket]:
    """The sockets of one address. ``[::]`` takes IPv4 too (as Prometheus does), unless that is asked for apart."""
    if not address.host:
        return [_every_interface(address.port)]
    found = socket.getaddrinfo(_ipv4_of(address.host), address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    if address.port == 0:
        found = found[:1]  # each would get a port of its own
    unique = dict.fromkeys((family, target) for family, _, _, _, target in found)
    only_ipv6 = not (ipv4_too and address.host == _ANY_IPV6)
    return [_listen(family, target, only_ipv6) for family, target in unique]


def _ipv4_of(host: str) -> str:
    """The IPv4 address that an IPv6 address stands for, such as ``::ffff:127.0.0.1``; what is none stays as it is."""
    try:
        mapped = ipaddress.IPv6Address(host).ipv4_mapped
    except ValueError:
        return host
    return host if mapped is None else str(mapped)


def _every_interface(port: int) -> socket.socket:
    """One socket for IPv4 and IPv6, or for IPv4 alone on a machine without IPv6."""
    if socket.has_dualstack_ipv6():
        try:
            return _listen(socket.AF_INET6, (_ANY_IPV6, port), only_ipv6=False)
        except OSError as error:
            if not _no_ipv6(error):
                raise
    return _listen(socket.AF_INET, (_ANY_IPV4, port), only_ipv6=False)


def _no_ipv6(error: OSError) -> bool:
    return error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def _listen(family: int, target: object, only_ipv6: bool) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only_ipv6))
        opened.bind(target)  # type: ignore[arg-type]  # what getaddrinfo returned
        opened.listen(_BACKLOG)
    except OSError:
        opened.close()
        raise
    return opened
