"""New versions in the store while the service runs: swapped in once they have answered, refused without harm."""

import errno
import io
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sparserve.models.bundle.bundle import Bundle
from sparserve.models.bundle.store import Store
from sparserve.service.app import create_app
from sparserve.service.catalog import catalog as catalog_module
from sparserve.service.catalog.desired_state import read_desired_state
from sparserve.service.core import ServingCore
from sparserve.service.settings import Settings
from tests.support.tiny_bundles import TASK, graph, publish

URL = f"/v1/models/{TASK}/classify"


def version(client: TestClient) -> str:
    answer = client.post(URL, json={"inputs": "good"})
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["model"]["version"]
    return found


def test_hot_swap_promoted_version(
    store: Store, newer: Bundle, serve: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
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


def test_hot_swap_polls_the_store(store: Store, newer: Bundle, serve: Callable[..., TestClient]) -> None:
    client = serve(watch_seconds=0.01)
    store.promote(TASK, "dense", newer.manifest.version)
    while version(client) != newer.manifest.version:
        pass


def test_hot_swap_under_load(
    store: Store, newer: Bundle, serve: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
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


def test_hot_swap_keeps_old_version_when_new_is_refused(
    store: Store, newer: Bundle, serve: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
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


def test_hot_swap_adds_and_removes_variants(
    store: Store, serve: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
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


def test_hot_swap_keeps_old_default_until_new_one_answers(
    store: Store, serve: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    client = serve(watch_seconds=0)
    publish(store, variant="broken", model=b"not a graph")
    store.set_default_variant(TASK, "broken")
    service_of(client).catalog.refresh()
    assert client.post(URL, json={"inputs": "good"}).json()["model"]["variant"] == "dense"
    assert client.get("/readyz").status_code == 200


def test_hot_swap_survives_missing_store(
    store: Store,
    serve: Callable[..., TestClient],
    service_of: Callable[[TestClient], ServingCore],
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = serve(watch_seconds=0)
    hidden = store.root.rename(store.root.with_name("hidden"))
    service_of(client).catalog.refresh()
    assert client.get("/readyz").status_code == 200
    assert version(client)
    assert "sparserve_store_readable 0.0" in client.get("/metrics").text
    assert "loaded models are still served" in caplog.text
    hidden.rename(store.root)
    service_of(client).catalog.refresh()
    assert "sparserve_store_readable 1.0" in client.get("/metrics").text


def test_hot_swap_store_created_later(
    tmp_path: Path, serve: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    root = tmp_path / "later"
    client = serve(store=root, watch_seconds=0)
    assert client.get("/readyz").status_code == 503
    publish(Store(root))
    service_of(client).catalog.refresh()
    assert client.get("/readyz").status_code == 200


def test_hot_swap_keeps_pinned_version(
    store: Store, newer: Bundle, serve: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    client = serve(watch_seconds=0, pins={f"{TASK}/dense": newer.manifest.version})
    assert version(client) == newer.manifest.version != store.current(TASK, "dense")
    service_of(client).catalog.refresh()
    assert version(client) == newer.manifest.version


def test_hot_swap_memory_budget(store: Store, serve: Callable[..., TestClient]) -> None:
    size = (store.folder(TASK, "dense") / "model.onnx").stat().st_size
    client = serve(max_model_bytes=size + 10)
    assert version(client)
    (refused,) = client.get("/v1/models").json()["refused"]
    assert refused["variant"] == "sparse90"
    assert "raise max_model_bytes" in refused["reason"]


def test_hot_swap_serves_without_bundle_folder(
    store: Store, serve: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    limit = 10 * (store.folder(TASK, "dense") / "model.onnx").stat().st_size
    client = serve(watch_seconds=0, max_model_bytes=limit)
    shutil.rmtree(store.folder(TASK, "dense"))
    publish(store, variant="dense", model=graph(seed=9))
    publish(store, variant="sparse95")
    service_of(client).catalog.refresh()
    assert version(client) == store.current(TASK, "dense")
    assert client.get("/v1/models").json()["refused"] == []


def test_hot_swap_retries_when_memory_is_free(
    store: Store, serve: Callable[..., TestClient], service_of: Callable[[TestClient], ServingCore]
) -> None:
    size = (store.folder(TASK, "dense") / "model.onnx").stat().st_size
    client = serve(watch_seconds=0, max_model_bytes=size + 10)
    catalog = service_of(client).catalog
    (refused,) = client.get("/v1/models").json()["refused"]
    catalog.refresh()  # which tries it no more than before
    assert 'outcome="refused",task="movie-sentiment",variant="sparse90"} 1.0' in client.get("/metrics").text
    shutil.rmtree(store.root / TASK / "dense")
    catalog.refresh()
    assert client.get("/v1/models").json()["refused"] == []
    assert client.post(URL, json={"inputs": "good"}).json()["model"]["variant"] == refused["variant"]


def test_hot_swap_logs_missing_store_once(
    store: Store,
    serve: Callable[..., TestClient],
    service_of: Callable[[TestClient], ServingCore],
    caplog: pytest.LogCaptureFixture,
) -> None:
    catalog = service_of(serve(watch_seconds=0)).catalog
    store.root.rename(store.root.with_name("hidden"))
    for _ in range(3):
        catalog.refresh()
    assert caplog.text.count("loaded models are still served") == 1


def test_hot_swap_refuses_invalid_pin(store: Store, serve: Callable[..., TestClient]) -> None:
    client = serve(pins={f"{TASK}/dense": "newest"})
    (refused,) = client.get("/v1/models").json()["refused"]
    assert "'newest' is not a version" in refused["reason"]
    assert client.post(f"/v1/models/{TASK}/sparse90/classify", json={"inputs": "good"}).status_code == 200


class Vanishing(Store):
    """A store of which a task goes away between two looks of one and the same reader."""

    def tasks(self) -> list[str]:
        return ["gone", *super().tasks()]


def test_read_desired_state_task_deleted_meanwhile(store: Store) -> None:
    assert read_desired_state(Vanishing(store.root), {}).defaults == {TASK: "dense"}


OTHER = "other"


def deny(monkeypatch: pytest.MonkeyPatch, *denied: Path) -> None:
    """Make folders and files unreadable, even for an administrator."""

    def checked(call: Callable[..., Any]) -> Callable[..., Any]:
        def access(path: Any, *arguments: Any, **options: Any) -> Any:
            if not isinstance(path, int) and Path(path) in denied:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return call(path, *arguments, **options)

        return access

    monkeypatch.setattr(os, "scandir", checked(os.scandir))
    monkeypatch.setattr(io, "open", checked(io.open))


def test_hot_swap_refuses_unreadable_task_alone(
    store: Store, serve: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, task=OTHER)
    with monkeypatch.context() as patch:
        deny(patch, store.root / OTHER)
        client = serve(watch_seconds=0, admin_without_key=True)
        assert client.post(URL, json={"inputs": "good"}).status_code == 200
        listed = client.get("/v1/models").json()
        (refused,) = listed["refused"]
        assert (refused["task"], refused["variant"]) == (OTHER, None)
        assert refused["reason"].startswith(f"{OTHER} cannot be read (Permission denied)")
        assert [model["task"] for model in listed["models"]] == [TASK, OTHER]
        assert OTHER in client.get("/readyz").json()["detail"]
        for path in (f"/v1/models/{OTHER}/classify", f"/v1/models/{OTHER}/dense/classify"):
            answer = client.post(path, json={"inputs": "good"})
            assert answer.status_code == 503 and "Permission denied" in answer.text
        index = client.post("/v2/repository/index").json()
        assert [one["reason"] for one in index if one["name"] == OTHER] == [refused["reason"]]
        assert client.get("/v1/reports").status_code == 200
        client.post("/v1/admin/refresh")
        assert caplog.text.count(f"refused the task {OTHER}") == 1
        assert "sparserve_bundles_refused 1.0" in client.get("/metrics").text
    assert client.post(f"/v2/repository/models/{OTHER}/load").status_code == 200
    assert client.get("/v1/models").json()["refused"] == []
    assert client.get("/readyz").status_code == 200


def test_hot_swap_keeps_loaded_models_of_unreadable_task(
    store: Store,
    serve: Callable[..., TestClient],
    service_of: Callable[[TestClient], ServingCore],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = serve(watch_seconds=0)
    before = version(client)
    deny(monkeypatch, store.root / TASK / "default")
    store.set_default_variant(TASK, "sparse90")
    service_of(client).catalog.refresh()
    assert version(client) == before
    (refused,) = client.get("/v1/models").json()["refused"]
    assert refused["reason"].startswith(f"{TASK}/default cannot be read")
    assert client.get("/readyz").status_code == 200


def test_hot_swap_refuses_unreadable_pointer_and_links_alone(
    store: Store, serve: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, task="misnamed").folder.parent.parent.rename(store.root / "Misnamed")
    (store.root / OTHER).symlink_to(store.root / "nowhere")
    (store.root / TASK / "linked").symlink_to(store.root / TASK / "dense")
    deny(monkeypatch, store.root / TASK / "sparse90" / "current")
    client = serve(watch_seconds=0)
    assert client.post(URL, json={"inputs": "good"}).status_code == 200
    refused = {(one["task"], one["variant"]): one["reason"] for one in client.get("/v1/models").json()["refused"]}
    assert refused.keys() == {(OTHER, None), (TASK, "linked"), (TASK, "sparse90")}
    assert refused[OTHER, None].startswith(f"{OTHER} is a link")
    assert refused[TASK, "linked"].startswith(f"{TASK}/linked is a link")
    assert "Permission denied" in refused[TASK, "sparse90"]
    assert "Misnamed is not served: a task's name has" in caplog.text


def test_hot_swap_polling_survives_errors(
    store: Store,
    newer: Bundle,
    serve: Callable[..., TestClient],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client, looks = serve(watch_seconds=0.01), threading.Semaphore(0)

    def fail(*_: object) -> None:
        looks.release()
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(catalog_module, "read_desired_state", fail)
        for _ in range(3):
            assert looks.acquire(timeout=10)
    store.promote(TASK, "dense", newer.manifest.version)
    while version(client) != newer.manifest.version:
        pass
    assert caplog.text.count("could not be read") == 1


def test_hot_swap_close_after_failed_first_poll(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, closed = threading.Event(), threading.Event()

    def fail(*_: object) -> None:
        looked.set()
        raise RuntimeError

    monkeypatch.setattr(catalog_module, "read_desired_state", fail)
    app = create_app(Settings(store=store.root, threads=1))
    monkeypatch.setattr(app.state.service.disagreements, "close", closed.set)
    with TestClient(app) as client:
        assert looked.wait(10)
        assert client.get("/readyz").status_code == 503
    assert closed.is_set()
