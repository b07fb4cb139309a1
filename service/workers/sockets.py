"""The sockets of the ports that the workers share, opened by the supervisor."""

import contextlib
import logging
import socket
from typing import Final

logger = logging.getLogger("sparserve")

BACKLOG: Final = 2048


def bind_sockets(host: str, port: int) -> list[socket.socket]:
    """Listen on each address of a host.

    Raises:
        OSError: an address cannot be resolved, or the port is in use.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners = []
    with contextlib.ExitStack() as failed:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            listener = failed.enter_context(socket.socket(family, socket.SOCK_STREAM))
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
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
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
