"""Listening on every address: IPv6 and IPv4 on the same port."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from benchmarks.service_process import running
from sparserve.models.bundle.store import Store
from sparserve.service.workers.sockets import bind_sockets, is_every_address, reserve_grpc_port


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@contextlib.contextmanager
def bound(host: str) -> Iterator[list[socket.socket]]:
    listeners = bind_sockets(host, 0)
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            stack.enter_context(listener)
        yield listeners


@pytest.mark.parametrize(("host", "every"), [("::", True), ("0:0::0", True), ("::1", False), ("0.0.0.0", False)])
def test_is_every_address(host: str, every: bool) -> None:
    assert is_every_address(host) == every


@needs_ipv6
@pytest.mark.parametrize("client", ["127.0.0.1", "::1"])
def test_bind_sockets_every_address_takes_both_families(client: str) -> None:
    with bound("::") as listeners:
        (port,) = {listener.getsockname()[1] for listener in listeners}
        with socket.create_connection((client, port)):
            accepted = next(
                one for one in listeners if one.family == (socket.AF_INET6 if ":" in client else socket.AF_INET)
            )
            accepted.setblocking(True)
            connection, address = accepted.accept()
            connection.close()
        assert address[0] == client  # not ::ffff:127.0.0.1


def test_bind_sockets_one_address() -> None:
    with bound("127.0.0.1") as listeners:
        assert [listener.getsockname()[0] for listener in listeners] == ["127.0.0.1"]


def test_bind_sockets_every_address_of_a_system_without_ipv6(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without_ipv6(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError("address family not supported by protocol")
        return socket.socket(family, kind)

    monkeypatch.setattr("sparserve.service.workers.sockets.open_socket", without_ipv6)
    with bound("::") as listeners, caplog.at_level("WARNING", logger="sparserve"):
        assert [listener.getsockname()[0] for listener in listeners] == ["0.0.0.0"]
    port, reserved = reserve_grpc_port("::", 0)
    with reserved:
        assert port
    assert "this system has no IPv6" in caplog.text


@needs_ipv6
def test_bind_sockets_names_the_port_in_use() -> None:
    with bound("0.0.0.0") as (taken,), pytest.raises(OSError, match=r"address :::\d+: address already in use"):
        bind_sockets("::", taken.getsockname()[1])


@needs_ipv6
@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_service_on_every_address(store: Store, workers: str) -> None:
    with running(store.root, "--host", "::", "--workers", workers) as service:
        for client in ("127.0.0.1", "::1"):
            with socket.create_connection((client, service.port)) as connection:
                connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        assert service.stop() == 0
