"""The container's health check asks the port that the service listens on."""

import socket
from http.client import HTTPConnection
from pathlib import Path

import pytest

from sparserve.models.bundle.store import Store
from sparserve.service.app import create_app
from sparserve.service.healthcheck import main
from sparserve.service.settings import Settings
from tests.support.service.listening import listening


def test_healthcheck_port_of_the_settings_or_the_option(
    module_store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sparserve.service.healthcheck.TIMEOUT_SECONDS", 60)
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = str(free.getsockname()[1])
    with listening(create_app(Settings(store=module_store.root, threads=1))) as address:
        port = address.rpartition(":")[2]
        monkeypatch.setenv("SPARSERVE_PORT", port)
        assert main([]) == 0
        monkeypatch.setenv("SPARSERVE_PORT", closed)
        assert main(["--port", port]) == 0
        assert capsys.readouterr().err == ""
        assert main([]) == 1
    assert f"nothing answers on port {closed}" in capsys.readouterr().err
    assert main(["--port", port]) == 1


def test_healthcheck_port_in_the_image() -> None:
    image = (Path(__file__).parents[2] / "docker" / "service.Dockerfile").read_text()
    assert "SPARSERVE_PORT=8000" in image and "sparserve.service.healthcheck" in image


def test_healthcheck_ignores_the_address_that_kubernetes_sets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sparserve.service.healthcheck.DEFAULT_PORT", "1")
    for value in ("tcp://10.96.0.7:8000", ""):
        monkeypatch.setenv("SPARSERVE_PORT", value)
        assert main([]) == 1
        assert "nothing answers on port 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("", ["127.0.0.1"]),
        ("::", ["::1", "127.0.0.1"]),
        ("[::]", ["::1", "127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1"]),
        ("::1", ["::1"]),
        ("10.0.0.3", ["10.0.0.3"]),
    ],
)
def test_healthcheck_asks_the_host_of_the_settings_or_the_option(
    host: str, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts: list[str] = []

    class Refused(HTTPConnection):
        def connect(self) -> None:
            hosts.append(self.host)
            raise ConnectionRefusedError

    monkeypatch.setattr("http.client.HTTPConnection", Refused)
    monkeypatch.setenv("SPARSERVE_HOST", host)
    assert main([]) == 1
    monkeypatch.setenv("SPARSERVE_HOST", "10.0.0.4")
    assert main(["--host", host or "127.0.0.1"]) == 1
    assert hosts == asked * 2
