"""Graceful shutdown: existing connections are served, new ones refused."""

import socket
import sys

import pytest

from sparserve.service.server.graceful_shutdown import refuse_connections


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's packet filter")
def test_refuse_connections_keeps_existing_ones() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as first:
        refuse_connections(listener)
        with pytest.raises(TimeoutError), socket.create_connection(listener.getsockname(), timeout=0.1):
            pass
        first.sendall(b"question")
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(100) == b"question"
            accepted.sendall(b"answer")
        assert first.recv(100) == b"answer"
