"""New versions in the store while the service runs: swapped in once they have answered, refused without harm."""

import os
import shutil
import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tiny_bundles import TASK, graph, publish

from models.bundle import Bundle
from models.store import Store

URL = f"/v1/models/{TASK}/classify"


@pytest.fixture
def newer(store: Store) -> Bundle:
    """Another version of `dense`, which is published but not the current one."""
    old = store.current(TASK, "dense")
    bundle = publish(store, variant="dense", model=graph(seed=99))
    store.promote(TASK, "dense", old)
    return bundle


def version(client: TestClient) -> str:
    answer = client.post(URL, json={"inputs": "good"})
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["model"]["version"]
    return found


def test_a_promoted_version_is_swapped_in(store: Store, newer: Bundle, serve, service_of) -> None:
    client = serve(watch_seconds=0)
    before = version(client)
    store.promote(TASK, "dense", newer.manifest.version)
    service_of(client).catalog.refresh()
    assert version(client) == newer.manifest.version != before
    metrics = client.get("/metrics").text
    assert f'version="{newer.manifest.version}"' in metrics
    assert f'version="{before}"' not in metrics
    store.promote(TASK, "dense", before)  # and back
    service_of(client).catalog.refresh()
    assert version(client) == before


def test_the_store_is_looked_at_again_by_itself(store: Store, newer: Bundle, serve) -> None:
    client = serve(watch_seconds=0.01)
    store.promote(TASK, "dense", newer.manifest.version)
    while version(client) != newer.manifest.version:
        pass


def test_requests_go_on_while_versions_change(store: Store, newer: Bundle, serve, service_of) -> None:
    client = serve(watch_seconds=0)
    versions = [store.current(TASK, "dense"), newer.manifest.version]
    seen: set[str] = set()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            seen.add(version(client))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(6):
        store.promote(TASK, "dense", versions[(turn + 1) % 2])
        service_of(client).catalog.refresh()
        assert version(client) == versions[(turn + 1) % 2]
    stop.set()
    for thread in threads:
        thread.join()
    assert seen == set(versions)


def test_a_bad_version_is_refused_and_the_old_one_stays(store: Store, newer: Bundle, serve, service_of) -> None:
    client, path = serve(watch_seconds=0), newer.folder / "model.onnx"
    catalog, before, content = service_of(client).catalog, version(client), path.read_bytes()
    os.truncate(path, 100)  # as a copy that is under way
    store.promote(TASK, "dense", newer.manifest.version)
    catalog.refresh()
    assert version(client) == before
    assert client.get("/readyz").status_code == 200
    (refused,) = client.get("/v1/models").json()["refused"]
    assert (refused["version"], "100 bytes" in refused["reason"]) == (newer.manifest.version, True)
    assert "sparserve_bundles_refused 1.0" in client.get("/metrics").text
    catalog.refresh()  # the same again changes nothing
    assert client.get("/v1/models").json()["refused"] == [refused]
    path.write_bytes(content)  # the copy is complete
    catalog.refresh()
    assert version(client) == newer.manifest.version
    assert client.get("/v1/models").json()["refused"] == []
    assert "sparserve_bundles_refused 0.0" in client.get("/metrics").text


def test_variants_come_and_go(store: Store, serve, service_of) -> None:
    client = serve(watch_seconds=0)
    catalog = service_of(client).catalog
    publish(store, variant="sparse95")
    shutil.rmtree(store.root / TASK / "sparse90")
    catalog.refresh()
    assert client.get(f"/v1/models/{TASK}/sparse95").json()["state"] == "ready"
    assert client.get(f"/v1/models/{TASK}/sparse90").status_code == 404
    store.set_default_variant(TASK, "sparse95")
    catalog.refresh()
    assert client.post(URL, json={"inputs": "good"}).json()["model"]["variant"] == "sparse95"


def test_a_new_default_that_cannot_answer_leaves_the_old_one(store: Store, serve, service_of) -> None:
    client = serve(watch_seconds=0)
    publish(store, variant="broken", model=b"not a graph")
    store.set_default_variant(TASK, "broken")
    service_of(client).catalog.refresh()
    assert client.post(URL, json={"inputs": "good"}).json()["model"]["variant"] == "dense"
    assert client.get("/readyz").status_code == 200


def test_a_store_that_is_gone_stops_nothing(store: Store, serve, service_of, caplog) -> None:
    client = serve(watch_seconds=0)
    hidden = store.root.rename(store.root.with_name("hidden"))
    service_of(client).catalog.refresh()
    assert client.get("/readyz").status_code == 200
    assert version(client)
    assert "sparserve_store_readable 0.0" in client.get("/metrics").text
    assert "what is loaded is still served" in caplog.text
    hidden.rename(store.root)
    service_of(client).catalog.refresh()
    assert "sparserve_store_readable 1.0" in client.get("/metrics").text


def test_a_store_that_comes_later_is_served(tmp_path: Path, serve, service_of) -> None:
    root = tmp_path / "later"
    client = serve(store=root, watch_seconds=0)
    assert client.get("/readyz").status_code == 503
    publish(Store(root))
    service_of(client).catalog.refresh()
    assert client.get("/readyz").status_code == 200


def test_a_pinned_version_stays(store: Store, newer: Bundle, serve, service_of) -> None:
    client = serve(watch_seconds=0, pins={f"{TASK}/dense": newer.manifest.version})
    assert version(client) == newer.manifest.version != store.current(TASK, "dense")
    service_of(client).catalog.refresh()
    assert version(client) == newer.manifest.version


def test_graphs_beyond_the_memory_allowed_are_refused(store: Store, serve) -> None:
    size = (store.folder(TASK, "dense") / "model.onnx").stat().st_size
    client = serve(max_model_bytes=size + 10)
    assert version(client)
    (refused,) = client.get("/v1/models").json()["refused"]
    assert refused["variant"] == "sparse90"
    assert "raise max_model_bytes" in refused["reason"]
