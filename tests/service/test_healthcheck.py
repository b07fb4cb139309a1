"""The container's health check asks the port that the service listens on."""

import socket
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
    monkeypatch.setenv("SPARSERVE_PORT", "tcp://10.96.0.7:8000")
    assert main([]) == 1
    assert "nothing answers on port 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "asked"), [("::", "::1"), ("0.0.0.0", "127.0.0.1"), ("::1", "::1"), ("10.0.0.3",) * 2]
)
def test_healthcheck_asks_the_host_of_the_settings(host: str, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = []

    def connect(host: str, port: int, timeout: float) -> None:
        hosts.append(host)
        raise SystemExit

    monkeypatch.setattr("http.client.HTTPConnection", connect)
    monkeypatch.setenv("SPARSERVE_HOST", host)
    with pytest.raises(SystemExit):
        main([])
    assert hosts == [asked]
