"""The service over a tiny store, in this process."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from sparserve.models.bundle.bundle import Bundle
from sparserve.models.bundle.store import Store
from sparserve.service.app import create_app
from sparserve.service.core import ServingCore
from sparserve.service.settings import Settings
from tests.support.service.fixtures import NewApp, Serve, ServiceOf
from tests.support.tiny_bundles import TASK, graph, publish


@pytest.fixture(scope="session")
def fast_path(pytestconfig: pytest.Config) -> bool:
    """False with the option --framework: FastAPI then handles every request of the tests."""
    return not pytestconfig.getoption("framework")


@pytest.fixture(scope="session")
def new_app(fast_path: bool) -> NewApp:
    """Make the app of some settings, with one thread; it has a fast path as the tests of this run have."""

    def make(**settings: Any) -> FastAPI:
        return create_app(Settings(**{"threads": 1, **settings}), fast_path=fast_path)

    return make


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with `dense` and `sparse90` of one task; `dense` answers for the task."""
    return _two_variants(tmp_path)


@pytest.fixture(scope="module")
def module_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The same for all the tests of a module, which leave it as it is."""
    return _two_variants(tmp_path_factory.mktemp("module"))


def _two_variants(folder: Path) -> Store:
    store = Store(folder / "store")
    publish(store, variant="dense")
    publish(store, variant="sparse90")
    return store


@pytest.fixture
def rivals(tmp_path: Path) -> Store:
    """`twin` answers as `dense` does, `rival` otherwise."""
    store = Store(tmp_path / "store")
    publish(store, variant="dense", model=graph(seed=1))
    publish(store, variant="twin", model=graph(seed=1))
    publish(store, variant="rival", model=graph(seed=2))
    return store


@pytest.fixture
def newer(store: Store) -> Bundle:
    """Another version of `dense`, published after the one that is current."""
    old = store.current(TASK, "dense")
    os.utime(store.folder(TASK, "dense") / "manifest.json", (1000, 1000))
    bundle = publish(store, variant="dense", model=graph(seed=99))
    store.promote(TASK, "dense", old)
    return bundle


@pytest.fixture
def serve(store: Store, new_app: NewApp) -> Iterator[Serve]:
    """Start the service in this process with some settings; its models are loaded when the client is returned."""
    clients: list[TestClient] = []

    def start(**settings: Any) -> TestClient:
        app = new_app(**{"store": store.root, **settings})
        client = TestClient(app, raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        assert client.portal
        client.portal.call(_service_of(client).loaded)
        return client

    yield start
    for client in reversed(clients):
        client.__exit__(None, None, None)


@pytest.fixture
def client(serve: Serve) -> TestClient:
    """The service over the tiny store."""
    return serve()


@pytest.fixture(scope="module")
def module_client(module_store: Store, new_app: NewApp) -> Iterator[TestClient]:
    """One service for all the tests of a module that leave no trace in it."""
    app = new_app(store=module_store.root)
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.portal
        client.portal.call(_service_of(client).loaded)
        yield client


@pytest.fixture
def service_of() -> ServiceOf:
    """The parts of the service behind a client."""
    return _service_of


def _service_of(client: TestClient) -> ServingCore:
    app = client.app
    assert isinstance(app, FastAPI)
    service = app.state.service
    assert isinstance(service, ServingCore)
    return service


@pytest.fixture
def experiment(serve: Serve, tmp_path: Path) -> Serve:
    """Start the service with an experiment on the task."""

    def start(mode: str, candidate: str, share: float = 1.0, **more: Any) -> TestClient:
        guard = more.pop("guard", None)
        policy = {"mode": mode, "candidate": candidate, "share": share, "guard": guard}
        url = f"sqlite:///{tmp_path}/disagreements.db"
        settings = {"experiments": {TASK: policy}, "disagreements_url": url, "admin_without_key": True}
        client: TestClient = serve(**{**settings, **more})
        return client

    return start
