"""Listening sockets: of the ports that workers share, opened by the supervisor, and of every address."""

import contextlib
import errno
import ipaddress
import logging
import socket
from typing import Final

logger = logging.getLogger("sparserve")

BACKLOG: Final = 2048
open_socket = socket.socket


def is_every_address(host: str) -> bool:
    """Return True for `::` in any spelling, which stands for the addresses of IPv6 and of IPv4."""
    try:
        return ipaddress.IPv6Address(host).is_unspecified
    except ValueError:
        return False


def listening_host(host: str) -> str:
    """Return the host, or every address of IPv4 in place of `::` on a system without IPv6."""
    if not is_every_address(host):
        return host
    try:
        with open_socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        logger.warning("this system has no IPv6: listening on every address of IPv4 in place of %s", host)
        return "0.0.0.0"
    return host


def bind_sockets(host: str, port: int) -> list[socket.socket]:
    """Listen on each address of a host; for `::` on every address of IPv6 and IPv4, as far as the system has them.

    These are two sockets, because one for both would see the addresses of IPv4 clients as `::ffff:192.0.2.1`, which
    is in no network of `trusted_proxies`.

    Raises:
        OSError: an address cannot be resolved, or the port is in use.
    """
    host = listening_host(host)
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    if is_every_address(host):
        addresses.append((socket.AF_INET, ("0.0.0.0", port)))
    listeners: list[socket.socket] = []
    with contextlib.ExitStack() as failed:
        for family, address in addresses:
            if listeners:  # with port 0 the system has chosen
                address = (address[0], listeners[0].getsockname()[1], *address[2:])
            try:
                opened = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                if listeners and error.errno == errno.EAFNOSUPPORT:
                    continue
                raise
            listener = failed.enter_context(opened)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                listener.bind(address)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise OSError(error.errno, f"address {host}:{port}: {reason}") from error
            listener.listen(BACKLOG)
            listener.setblocking(False)
            listeners.append(listener)
        failed.pop_all()
    shown = f"[{host}]" if ":" in host else host
    logger.info("listening on http://%s:%d", shown, listeners[0].getsockname()[1])
    return listeners


def reserve_grpc_port(host: str, port: int | None) -> tuple[int | None, contextlib.AbstractContextManager[object]]:
    """Choose the port of gRPC and keep it from other programs; return it with what holds it.

    gRPC cannot take over a socket. Each worker opens its own with SO_REUSEPORT, and the kernel spreads connections over
    them by chance. A socket that has the port but does not listen keeps others out.

    Raises:
        OSError: the port is in use.
    """
    if port is None:
        return None, contextlib.nullcontext()
    found = socket.getaddrinfo(listening_host(host), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:  # with SO_REUSEPORT another service would go unnoticed
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise OSError(
                error.errno, f"address {host}:{port} of gRPC: {(error.strerror or str(error)).lower()}"
            ) from error
        chosen = int(probe.getsockname()[1])
    holder = socket.socket(family, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind((address[0], chosen, *address[2:]))
    return chosen, holder
