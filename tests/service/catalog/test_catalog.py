"""Stores and bundles that are not what they should be: refused with file and reason, while the others serve."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sparserve.models.bundle.inference import load_bundle
from sparserve.models.bundle.store import Store
from tests.support.tiny_bundles import TASK, forgetful, graph, publish, sample_of

Damage = Callable[[Path], object]


def edit_manifest(**changes: object) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def truncate(folder: Path) -> None:
    os.truncate(folder / "model.onnx", 100)


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)


def climb(folder: Path) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content["files"]["../../dense/current"] = content["files"]["model.onnx"]
    path.write_text(json.dumps(content))


def link(folder: Path) -> None:
    outside = folder.parent.parent / "outside.onnx"
    (folder / "model.onnx").rename(outside)
    (folder / "model.onnx").symlink_to(outside)


def remove_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


DAMAGES = {
    "truncated": (truncate, "model.onnx has 100 bytes"),
    "wrong digest": (flip, "model.onnx does not match the SHA-256"),
    "later schema": (edit_manifest(schema_version=2), "upgrade sparserve"),
    "climbing path": (climb, "not a plain path inside the bundle"),
    "leaving link": (link, "model.onnx is or passes through a symbolic link"),
    "edited": (edit_manifest(max_length=8), "it was changed"),
    "missing file": (remove_tokenizer, "tokenizer.json is missing"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "it has no manifest.json"),
    "not json": (lambda folder: (folder / "manifest.json").write_text("{"), "is not JSON"),
    "extra file": (lambda folder: (folder / "extra").write_text(""), "extra is not in the manifest"),
}


@pytest.mark.parametrize("damage, reason", DAMAGES.values(), ids=DAMAGES.keys())
def test_catalog_refuses_damaged_bundles(
    store: Store, serve: Callable[..., TestClient], caplog: pytest.LogCaptureFixture, damage: Damage, reason: str
) -> None:
    damage(store.folder(TASK, "sparse90"))
    client: TestClient = serve()
    (refused,) = client.get("/v1/models").json()["refused"]
    assert (refused["task"], refused["variant"]) == (TASK, "sparse90")
    assert reason in refused["reason"]
    assert str(store.root) not in refused["reason"]
    assert reason in caplog.text and str(store.root) in caplog.text
    assert client.post(f"/v1/models/{TASK}/classify", json={"inputs": "good"}).status_code == 200
    assert client.get("/readyz").status_code == 200
    answer = client.post(f"/v1/models/{TASK}/sparse90/classify", json={"inputs": "good"})
    assert answer.status_code == 503
    assert reason in answer.json()["detail"]
    assert client.get(f"/v1/models/{TASK}/sparse90").json()["state"] == "refused"


def test_catalog_refused_default_is_not_replaced(store: Store, serve: Callable[..., TestClient]) -> None:
    truncate(store.folder(TASK, "dense"))
    client = serve()
    assert client.post(f"/v1/models/{TASK}/classify", json={"inputs": "good"}).status_code == 503
    assert client.post(f"/v1/models/{TASK}/sparse90/classify", json={"inputs": "good"}).status_code == 200
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert f"{TASK}/dense, the task's default, was refused" in ready.json()["detail"]


def test_catalog_refuses_graphs_that_cannot_run(store: Store, serve: Callable[..., TestClient]) -> None:
    publish(store, variant="noise", model=b"not a graph")
    publish(store, variant="three", model=graph(3))
    publish(store, variant="nan", model=graph(poison=True))
    publish(store, variant="one", model=forgetful())
    refused = {item["variant"]: item["reason"] for item in serve().get("/v1/models").json()["refused"]}
    assert "(1, 2) logits for a batch of two" in refused["one"]
    assert "model.onnx cannot be run by this onnxruntime" in refused["noise"]
    assert "does not answer a warm-up request" in refused["three"]
    assert "numbers that are not finite" in refused["nan"]


def test_catalog_refuses_damaged_pointers(store: Store, serve: Callable[..., TestClient]) -> None:
    (store.root / TASK / "sparse90" / "current").write_text("../../etc")
    (refused,) = serve().get("/v1/models").json()["refused"]
    assert "does not name a version" in refused["reason"]


@pytest.mark.parametrize("make", [lambda root: None, lambda root: root.mkdir()], ids=["missing", "empty"])
def test_catalog_without_bundles_is_not_ready(tmp_path: Path, serve: Callable[..., TestClient], make: Any) -> None:
    root = tmp_path / "nothing"
    make(root)
    client = serve(store=root)
    assert client.get("/livez").status_code == 200
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert "nothing" in ready.json()["detail"] and "publish" in ready.json()["detail"]
    assert client.get("/v1/models").json() == {"models": [], "refused": [], "object": "list", "data": []}
    assert client.post(f"/v1/models/{TASK}/classify", json={"inputs": "good"}).status_code == 503


def test_catalog_store_is_a_file(tmp_path: Path, serve: Callable[..., TestClient]) -> None:
    path = tmp_path / "file"
    path.write_text("")
    assert "does not exist" in serve(store=path).get("/readyz").json()["detail"]


def test_catalog_writes_nothing_to_the_store(store: Store, serve: Callable[..., TestClient]) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    client = serve()
    client.post(f"/v1/models/{TASK}/compare", json={"inputs": "good"})
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before


def test_catalog_warns_of_sample_differences(
    store: Store, serve: Callable[..., TestClient], caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_bundle(store.open(TASK, "dense"), threads=1)
    logits = loaded.classifier.logits(loaded.tokenizer.encode(["good", "bad"])).astype(float)
    publish(store, variant="same", model=graph(seed=5), sample=sample_of(logits.tolist()))
    publish(store, variant="other", model=graph(seed=5), sample=sample_of((logits + 0.5).tolist()))
    client = serve()
    facts = {one["variant"]: one for one in client.get(f"/v1/models/{TASK}").json()["variants"]}
    assert facts["same"]["sample_difference"] < 1e-4
    assert facts["other"]["sample_difference"] == pytest.approx(0.5, abs=1e-3)
    assert f"{TASK}/other: logits" in caplog.text and f"{TASK}/same: logits" not in caplog.text


def test_catalog_refuses_sample_of_wrong_shape(store: Store, serve: Callable[..., TestClient]) -> None:
    publish(store, variant="odd", sample=sample_of([[1.0, 2.0, 3.0]]))
    (refused,) = serve().get("/v1/models").json()["refused"]
    assert "its sample has" in refused["reason"]
