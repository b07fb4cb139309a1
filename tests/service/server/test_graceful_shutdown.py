"""The end of listening: what has connected is served, who comes after is turned away."""

import socket
import sys

import pytest

from sparserve.service.server.graceful_shutdown import turn_away


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's packet filter")
def test_a_socket_that_turns_away_keeps_the_connections_that_were_made() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as first:
        turn_away(listener)
        with pytest.raises(TimeoutError), socket.create_connection(listener.getsockname(), timeout=0.1):
            pass
        first.sendall(b"question")
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(100) == b"question"
            accepted.sendall(b"answer")
        assert first.recv(100) == b"answer"
