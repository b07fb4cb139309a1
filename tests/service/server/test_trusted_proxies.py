"""Whom X-Forwarded-For is believed: nobody, unless the settings name the proxy."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from sparserve.service.app import create_app
from sparserve.service.settings import Settings
from sparserve.service.workers.process import uvicorn_config


def served_as_uvicorn_does(client: str, **settings: Any) -> TestClient:
    """A client at an address, of the app as uvicorn wraps it."""
    settings = {"threads": 1, "anonymous_rate": 2, **settings}
    config = uvicorn_config(create_app(Settings(**settings)), Settings(**settings))
    config.load()
    return TestClient(config.loaded_app, client=(client, 50000))


def statuses(client: TestClient, forwarded: Sequence[str]) -> list[int]:
    return [client.get("/info", headers={"X-Forwarded-For": one}).status_code for one in forwarded]


MANY = [f"203.0.113.{host}" for host in range(4)]


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "10.0.0.1"])
def test_by_default_nobody_can_say_that_he_is_another(client: str) -> None:
    assert statuses(served_as_uvicorn_does(client), MANY) == [200, 200, 429, 429]


def test_trusted_proxies_forward_client_addresses(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sparserve.requests")
    client = served_as_uvicorn_does("10.0.0.1", trusted_proxies=["10.0.0.0/8"])
    assert statuses(client, MANY) == [200] * 4
    assert statuses(client, [MANY[0]] * 2) == [200, 429]
    # What the client itself has written stands before what the proxy adds.
    assert statuses(client, [f"{before}, 203.0.113.9" for before in MANY]) == [200, 200, 429, 429]
    logged = [vars(record)["fields"].get("client") for record in caplog.records if "fields" in vars(record)]
    assert set(logged) == {*MANY, "203.0.113.9"}


def test_trusted_proxies_ignore_direct_clients() -> None:
    client = served_as_uvicorn_does("192.0.2.1", trusted_proxies=["10.0.0.0/8", "::1"])
    assert statuses(client, MANY) == [200, 200, 429, 429]


def test_proxies_come_from_the_command_line_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(_cli_parse_args=["--trusted-proxies", "10.0.0.1,fd00::/8"]).trusted_proxies
    monkeypatch.setenv("SPARSERVE_TRUSTED_PROXIES", json.dumps(["10.0.0.1", "fd00::/8"]))
    assert [str(network) for network in given] == ["10.0.0.1/32", "fd00::/8"]
    assert Settings().trusted_proxies == given


@pytest.mark.parametrize("wrong", ["proxy.example", "10.0.0.1/8", "*", ""])
def test_what_is_no_address_and_no_network_is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError, match="trusted_proxies"):
        Settings(trusted_proxies=[wrong])
