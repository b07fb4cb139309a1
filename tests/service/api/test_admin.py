"""Changing what is served while it runs: pinned, rolled back, unloaded and loaded, in memory, by a key's owner."""

import asyncio
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sparserve.models.bundle.bundle import Bundle
from sparserve.models.bundle.store import Store
from sparserve.service.api import admin
from sparserve.service.catalog import catalog as catalog_module
from sparserve.service.catalog.desired_state import DesiredState, read_desired_state
from sparserve.service.core import ServingCore
from tests.support.service.fixtures import NewApp, Serve, ServiceOf
from tests.support.tiny_bundles import TASK, publish

URL = f"/v1/models/{TASK}/classify"
DENSE = f"/v1/models/{TASK}/dense"
MODELS = f"/v1/admin/models/{TASK}"
DEFAULT_POOL = 32  # threads of asyncio's own pool, at most
REPOSITORY = f"/v2/repository/models/{TASK}"


@pytest.fixture
def client(serve: Serve, newer: Bundle) -> TestClient:
    """Return a service that reads the store on request only, and needs no key."""
    found = serve(watch_seconds=0, admin_without_key=True)
    assert isinstance(found, TestClient)
    return found


@pytest.fixture(scope="module")
def lasting_client(module_store: Store, new_app: NewApp) -> Iterator[TestClient]:
    """One service for the requests that change nothing."""
    app = new_app(store=module_store.root, watch_seconds=0, admin_without_key=True)
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.portal
        client.portal.call(app.state.service.loaded)
        yield client


def version(client: TestClient, variant: str = "dense") -> str:
    answer = client.post(f"/v1/models/{TASK}/{variant}/classify", json={"inputs": "good"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model"]["version"])


def states(client: TestClient) -> dict[str, str]:
    return {one["variant"]: one["state"] for one in client.get(f"/v1/models/{TASK}").json()["variants"]}


def test_refresh_reads_the_store(client: TestClient, store: Store, newer: Bundle) -> None:
    publish(store, variant="sparse95")
    store.promote(TASK, "dense", newer.manifest.version)
    answer = client.post("/v1/admin/refresh")
    assert answer.status_code == 200
    assert [one["variant"] for one in answer.json()["models"][0]["variants"]] == ["dense", "sparse90", "sparse95"]
    assert version(client) == newer.manifest.version


def test_promote_pins_a_version(client: TestClient, store: Store, newer: Bundle) -> None:
    old, new = store.current(TASK, "dense"), newer.manifest.version
    answer = client.post(f"{DENSE}/promote", json={"version": new})
    assert answer.json() == {"task": TASK, "variant": "dense", "version": new, "pinned": True}
    client.post("/v1/admin/refresh")
    assert version(client) == new
    assert client.get("/v1/admin/overrides").json() == {"pinned": [answer.json()], "unloaded": []}
    assert store.current(TASK, "dense") == old  # the store is not written to
    assert client.post(f"{DENSE}/unpin").json() == {**answer.json(), "version": old, "pinned": False}
    assert version(client) == old
    assert client.get("/v1/admin/overrides").json() == {"pinned": [], "unloaded": []}


def test_rollback_pins_the_previous_version(client: TestClient, store: Store, newer: Bundle) -> None:
    old, new = store.current(TASK, "dense"), newer.manifest.version
    store.promote(TASK, "dense", new)
    client.post("/v1/admin/refresh")
    answer = client.post(f"{DENSE}/rollback")
    assert (answer.json()["version"], answer.json()["pinned"]) == (old, True)
    assert version(client) == old
    again = client.post(f"{DENSE}/rollback")
    assert again.status_code == 422
    assert f"has no version before {old}" in again.json()["error"]
    assert version(client) == old


def test_promote_refused_version_changes_nothing(client: TestClient, store: Store, newer: Bundle) -> None:
    old = version(client)
    path = newer.folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-10])
    answer = client.post(f"{DENSE}/promote", json={"version": newer.manifest.version})
    assert answer.status_code == 422
    assert "model.onnx has" in answer.json()["error"] and "the served version stays" in answer.json()["error"]
    assert str(store.root) not in answer.text
    assert version(client) == old
    assert client.get("/v1/admin/overrides").json()["pinned"] == []
    assert client.get("/v1/models").json()["refused"] == []
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    ("url", "body", "status", "words"),
    [
        (f"{DENSE}/promote", {"version": "0" * 16}, 422, "has no version"),
        (f"{DENSE}/promote", {"version": "../../etc"}, 422, "has no version"),
        (f"{DENSE}/promote", {}, 422, "version"),
        (f"/v1/models/{TASK}/none/promote", {"version": "0" * 16}, 404, "has no variant 'none'"),
        ("/v1/models/none/dense/rollback", None, 404, "no task 'none'"),
        (f"/v1/models/{TASK}/none/unpin", None, 404, "has no variant 'none'"),
        ("/v2/repository/models/none/load", None, 404, "no task 'none'"),
        ("/v2/repository/models/..%2f/unload", None, 404, ""),
        (f"{REPOSITORY}/unload", {"parameters": {"version": "none"}}, 404, "has no variant 'none'"),
        (f"{REPOSITORY}/load", {"parameters": {"version": 1}}, 422, "parameters.version"),
        (f"{REPOSITORY}/load", {"parameters": {"config": "{}"}}, 422, "parameters.config"),
        (f"{REPOSITORY}/load", {"more": 1}, 422, "more"),
        (f"{REPOSITORY}/load", [], 422, "body"),
    ],
)
def test_admin_reports_impossible_changes(
    lasting_client: TestClient, url: str, body: Any, status: int, words: str
) -> None:
    client = lasting_client
    answer = client.post(url, json=body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]
    assert client.get("/v1/admin/overrides").json() == {"pinned": [], "unloaded": []}


def test_admin_body_that_is_not_json_is_400(lasting_client: TestClient) -> None:
    client = lasting_client
    assert client.post(f"{REPOSITORY}/unload", content=b"{").status_code == 400
    assert set(states(client).values()) == {"ready"}


def test_unload_and_load_a_variant(client: TestClient, serve: Serve) -> None:
    sparse = {"parameters": {"version": "sparse90"}}
    answer = client.post(f"{REPOSITORY}/unload", json=sparse)
    assert answer.json() == {"name": TASK, "unload": True}
    assert states(client) == {"dense": "ready", "sparse90": "unloaded"}
    refused = client.post(f"/v1/models/{TASK}/sparse90/classify", json={"inputs": "good"})
    assert refused.status_code == 503
    assert "was unloaded" in refused.json()["error"]
    assert version(client)
    assert client.get("/readyz").status_code == 200
    served = [line for line in client.get("/metrics").text.splitlines() if line.startswith("sparserve_model_info{")]
    assert len(served) == 1 and 'variant="dense"' in served[0]
    index = {one["version"]: one for one in client.post("/v2/repository/index").json()}
    assert (index["sparse90"]["state"], index["sparse90"]["reason"]) == ("UNAVAILABLE", "unloaded")
    client.post("/v1/admin/refresh")
    assert states(client)["sparse90"] == "unloaded"
    assert client.get("/v1/admin/overrides").json()["unloaded"] == [{"task": TASK, "variant": "sparse90"}]
    assert client.post(f"{REPOSITORY}/load", json=sparse).status_code == 200
    assert version(client, "sparse90")


def test_unload_and_load_a_task(client: TestClient) -> None:
    assert client.post(f"{REPOSITORY}/unload").status_code == 200
    assert states(client) == {"dense": "unloaded", "sparse90": "unloaded"}
    ready = client.get("/readyz")  # a service with nothing to serve is not ready
    assert ready.status_code == 503 and "every model was unloaded" in ready.json()["detail"]
    assert client.post(URL, json={"inputs": "good"}).status_code == 503
    assert client.post(f"{REPOSITORY}/load").json() == {"name": TASK, "load": True}
    assert states(client) == {"dense": "ready", "sparse90": "ready"}
    assert client.get("/readyz").status_code == 200


def test_unload_of_the_default_is_not_replaced(client: TestClient) -> None:
    client.post(f"{REPOSITORY}/unload", json={"parameters": {"version": "dense"}})
    assert client.post(URL, json={"inputs": "good"}).status_code == 503
    assert version(client, "sparse90")


def test_unload_without_the_store(client: TestClient, store: Store) -> None:
    hidden = store.root.rename(store.root.with_name("hidden"))
    assert client.post(f"{REPOSITORY}/unload", json={"parameters": {"version": "sparse90"}}).status_code == 200
    assert states(client) == {"dense": "ready", "sparse90": "unloaded"}
    promoted = client.post(f"{DENSE}/promote", json={"version": "0" * 16})
    assert promoted.status_code == 422
    hidden.rename(store.root)
    assert client.post(f"{REPOSITORY}/load").status_code == 200


def test_load_retries_a_refused_bundle(client: TestClient, store: Store, tmp_path: Path) -> None:
    folder = store.folder(TASK, "sparse90")
    shutil.move(folder / "model.onnx", tmp_path / "model.onnx")
    broken = client.post(f"{REPOSITORY}/unload", json={"parameters": {"version": "sparse90"}})
    assert broken.status_code == 200
    answer = client.post(f"{REPOSITORY}/load", json={"parameters": {"version": "sparse90"}})
    assert answer.status_code == 503
    assert "model.onnx is missing" in answer.json()["error"]
    assert states(client)["sparse90"] == "refused"
    shutil.move(tmp_path / "model.onnx", folder / "model.onnx")
    assert client.post(f"{REPOSITORY}/load").status_code == 200
    assert states(client)["sparse90"] == "ready"


def test_promote_loads_an_unloaded_variant(client: TestClient, newer: Bundle) -> None:
    client.post(f"{REPOSITORY}/unload", json={"parameters": {"version": "dense"}})
    assert client.post(f"{DENSE}/promote", json={"version": newer.manifest.version}).status_code == 200
    assert version(client) == newer.manifest.version


def test_unload_forgets_removed_bundles(client: TestClient, store: Store) -> None:
    client.post(f"{REPOSITORY}/unload", json={"parameters": {"version": "sparse90"}})
    shutil.rmtree(store.root / TASK / "sparse90")
    client.post("/v1/admin/refresh")
    assert states(client) == {"dense": "ready"}


def test_make_default_writes_the_store(client: TestClient, store: Store) -> None:
    answer = client.post(f"{MODELS}/sparse90/default")
    assert answer.status_code == 200
    assert answer.json()["default_variant"] == "sparse90"
    assert store.default_variant(TASK) == "sparse90"
    assert client.post(URL, json={"inputs": "good"}).json()["model"]["variant"] == "sparse90"


def test_make_default_of_an_experiments_candidate(client: TestClient) -> None:
    policy = {"mode": "split", "candidate": "sparse90", "share": 1}
    assert client.put(f"/v1/compare/{TASK}", json=policy).status_code == 200
    assert client.post(f"{MODELS}/sparse90/default").status_code == 200
    assert client.post(URL, json={"inputs": "good"}).json()["model"]["variant"] == "sparse90"
    assert client.get(f"/v1/compare/{TASK}").json()["inputs"] == 0
    assert client.delete(f"/v1/compare/{TASK}").status_code == 200


def test_make_default_refuses_a_variant_that_cannot_answer(client: TestClient, store: Store) -> None:
    client.post(f"{REPOSITORY}/unload", json={"parameters": {"version": "sparse90"}})
    assert client.post(f"{MODELS}/sparse90/default").status_code == 503
    assert client.post(f"{MODELS}/none/default").status_code == 404
    assert not store.has_default(TASK)


def test_make_default_in_a_read_only_store(client: TestClient, store: Store) -> None:
    (store.root / TASK / "default").mkdir()
    answer = client.post(f"{MODELS}/sparse90/default")
    assert answer.status_code == 422
    assert f"run `sparserve bundles default {TASK} sparse90` where it can" in answer.json()["error"]
    assert client.post(URL, json={"inputs": "good"}).json()["model"]["variant"] == "dense"


def test_admin_requests_leave_the_default_pool_free(
    client: TestClient, service_of: ServiceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    service: ServingCore = service_of(client)
    waiting: list[asyncio.Task[Any]] = []
    release = threading.Event()

    def slow_read(store: Store, pins: Any) -> DesiredState:
        release.wait(10)
        return read_desired_state(store, pins)

    async def refresh_and_ask() -> str:
        waiting.extend(asyncio.create_task(admin.refresh(service)) for _ in range(DEFAULT_POOL))
        await asyncio.sleep(0)  # they are on their way
        return await asyncio.wait_for(asyncio.to_thread(lambda: "here"), timeout=10)

    monkeypatch.setattr(catalog_module, "read_desired_state", slow_read)
    assert client.portal
    assert client.portal.call(refresh_and_ask) == "here"
    assert not any(task.done() for task in waiting)
    release.set()
    assert len(client.portal.call(asyncio.wait, waiting)[0]) == DEFAULT_POOL


def test_admin_changes_do_not_interrupt_requests(client: TestClient, store: Store, newer: Bundle) -> None:
    versions = {store.current(TASK, "dense"), newer.manifest.version}
    seen: set[str] = set()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            seen.add(version(client))

    thread = threading.Thread(target=ask)
    thread.start()
    for _ in range(4):
        for one in versions:
            assert client.post(f"{DENSE}/promote", json={"version": one}).status_code == 200
            assert version(client) == one
    stop.set()
    thread.join()
    assert seen <= versions
