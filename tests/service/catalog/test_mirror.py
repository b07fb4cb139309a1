"""A store behind a URL, here in memory, mirrored into a folder and served from there."""

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fastapi.testclient import TestClient

from sparserve.models.bundle.bundle import Bundle
from sparserve.models.bundle.manifest import Machine, Measurement
from sparserve.models.bundle.store import Store
from sparserve.models.errors import StoreError
from sparserve.service.catalog.mirror import KEPT_VERSIONS, Mirror
from sparserve.service.core import ServingCore
from tests.support.tiny_bundles import TASK, graph, publish

URL = "memory://bucket/store"
CLASSIFY = f"/v1/models/{TASK}/classify"


@pytest.fixture
def files() -> Iterator[Any]:
    """The file system behind the URL, empty."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()


@pytest.fixture
def origin(store: Store) -> Store:
    """The original store."""
    return store


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(tmp_path / "local")


def upload(files: Any, store: Store, *, only: str = "") -> None:
    for path in sorted(store.root.rglob("*")):
        name = path.relative_to(store.root).as_posix()
        if path.is_file() and name.startswith(only):
            files.pipe_file(f"/bucket/store/{name}", path.read_bytes())


def content(store: Store) -> dict[str, bytes]:
    return {str(p.relative_to(store.root)): p.read_bytes() for p in store.root.rglob("*") if p.is_file()}


def newer(origin: Store, seed: int) -> Bundle:
    return publish(origin, variant="dense", model=graph(seed=seed))


def test_mirror_equals_the_original(files: Any, origin: Store, local: Store) -> None:
    origin.set_default_variant(TASK, "sparse90")
    (origin.root / TASK / "report.json").write_text("{}")
    upload(files, origin)
    Mirror(URL, local).sync({})
    assert content(local) == content(origin)


def test_mirror_fetches_only_new_bundles(
    files: Any, origin: Store, local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(files, origin)
    mirror = Mirror(URL, local)
    mirror.sync({})
    fetched: list[str] = []
    get_file = mirror._files.get_file

    def counted(remote: str, target: str, **more: Any) -> None:
        fetched.append(remote)
        get_file(remote, target, **more)

    monkeypatch.setattr(mirror._files, "get_file", counted)
    mirror.sync({})
    assert fetched == []
    bundle = newer(origin, 7)
    upload(files, origin)
    mirror.sync({})
    assert fetched and all(bundle.manifest.version in name for name in fetched)
    assert local.current(TASK, "dense") == bundle.manifest.version


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "no manifest", "not json"])
def test_mirror_incomplete_bundle_moves_no_pointer(
    files: Any, origin: Store, local: Store, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    upload(files, origin)
    mirror = Mirror(URL, local)
    mirror.sync({})
    before, bundle = local.current(TASK, "dense"), newer(origin, 7)
    upload(files, origin)
    folder = f"/bucket/store/{TASK}/dense/{bundle.manifest.version}"
    model = (bundle.folder / "model.onnx").read_bytes()
    match damage:
        case "truncated":
            files.pipe_file(f"{folder}/model.onnx", model[:100])
        case "changed":
            files.pipe_file(f"{folder}/model.onnx", bytes([model[0] ^ 1]) + model[1:])
        case "missing":
            files.rm_file(f"{folder}/model.onnx")
        case "no manifest":
            files.rm_file(f"{folder}/manifest.json")
        case "not json":
            files.pipe_file(f"{folder}/manifest.json", b"{")
    mirror.sync({})
    assert local.current(TASK, "dense") == before
    assert "is not mirrored" in caplog.text
    assert not list(local.root.rglob(".tmp-*"))
    upload(files, origin)  # the upload is complete now
    mirror.sync({})
    assert local.current(TASK, "dense") == bundle.manifest.version


def test_mirror_skips_a_task_that_cannot_be_mirrored(
    files: Any, origin: Store, local: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(origin, task="elsewhere")
    upload(files, origin)
    (tmp_path / "outside").mkdir()
    local.root.mkdir()
    (local.root / "elsewhere").symlink_to(tmp_path / "outside")
    mirror = Mirror(URL, local)
    for _ in range(2):
        mirror.sync({})
    assert local.variants(TASK) == ["dense", "sparse90"]
    assert list((tmp_path / "outside").iterdir()) == []
    assert caplog.text.count("the task elsewhere is not mirrored: ") == 1


def test_mirror_raises_if_no_task_can_be_mirrored(files: Any, origin: Store, local: Store, tmp_path: Path) -> None:
    upload(files, origin)
    local.root.mkdir()
    (local.root / TASK).symlink_to(tmp_path)
    with pytest.raises(OSError, match="is a link"):
        Mirror(URL, local).sync({})


def test_mirror_drops_deleted_variants(files: Any, origin: Store, local: Store) -> None:
    upload(files, origin)
    mirror = Mirror(URL, local)
    mirror.sync({})
    files.rm(f"/bucket/store/{TASK}/sparse90", recursive=True)
    mirror.sync({})
    assert local.variants(TASK) == ["dense"]


def test_mirror_prunes_old_versions(files: Any, origin: Store, local: Store) -> None:
    first = origin.current(TASK, "dense")
    mirror = Mirror(URL, local)
    for seed in range(5):
        newer(origin, 10 + seed)
        upload(files, origin)
        mirror.sync({(TASK, "dense"): {first}})
    versions = local.versions(TASK, "dense")
    assert len(versions) == KEPT_VERSIONS
    assert {first, local.current(TASK, "dense")} <= set(versions)


def test_mirror_keeps_publication_order(files: Any, origin: Store, local: Store) -> None:
    versions = [origin.current(TASK, "dense"), newer(origin, 7).manifest.version, newer(origin, 8).manifest.version]
    upload(files, origin)
    manifests = [f"/bucket/store/{TASK}/dense/{version}/manifest.json" for version in versions]
    for place, manifest in enumerate(manifests):
        files.store[manifest].modified = datetime.fromtimestamp(1000 * (place + 1), tz=UTC)
    mirror = Mirror(URL, local)
    files.rm_file(manifests[1])  # an upload that is under way
    assert mirror.published(TASK, "dense") == {versions[0]: 1000, versions[2]: 3000}
    mirror.fetch(TASK, "dense", versions[2])
    mirror.fetch(TASK, "dense", versions[0])
    assert local.versions(TASK, "dense") == [versions[0], versions[2]]
    assert local.version_before(TASK, "dense", versions[2], {versions[1]: 2000}) == versions[1]


def test_mirror_uses_measurement_time_without_file_times(
    files: Any, origin: Store, local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(path: str) -> None:
        raise NotImplementedError

    machine = Machine(cpu="", isa=(), cores=1, memory_bytes=1, system="", python="", onnxruntime="")
    measured = Measurement(
        measured_at="2026-01-02T03:04:05+00:00", machine=machine, threads=1, repeats=1, resident_bytes=1, latency=()
    )
    version = publish(origin, variant="measured", measurement=measured).manifest.version
    upload(files, origin)
    mirror = Mirror(URL, local)
    monkeypatch.setattr(mirror._files, "modified", none)
    assert mirror.published(TASK, "measured") == {version: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()}
    mirror.sync({})
    assert local.tasks() == [TASK]


def test_mirror_logs_damaged_bundle_once(
    files: Any, origin: Store, local: Store, caplog: pytest.LogCaptureFixture
) -> None:
    files.pipe_file(f"/bucket/store/{TASK}/dense/current", b"0123456789abcdef")
    mirror = Mirror(URL, local)
    for _ in range(3):
        mirror.sync({})
    assert caplog.text.count("is not mirrored") == 1


def test_mirror_ignores_invalid_names(files: Any, origin: Store, local: Store) -> None:
    upload(files, origin)
    files.pipe_file("/bucket/store/Not A Task/dense/current", b"0123456789abcdef")
    files.pipe_file(f"/bucket/store/{TASK}/wrong/current", b"../../etc")
    files.pipe_file(f"/bucket/store/{TASK}/huge/current", b"0" * 5000)
    files.pipe_file(f"/bucket/store/{TASK}/default", b"../up")
    Mirror(URL, local).sync({})
    assert local.tasks() == [TASK]
    assert local.variants(TASK) == ["dense", "sparse90"]
    assert not local.has_default(TASK)


def test_mirror_errors_hide_the_password(files: Any, local: Store) -> None:
    with pytest.raises(OSError, match="memory://bucket/none cannot be read"):
        Mirror("memory://user:secret@bucket/none", local).sync({})
    with pytest.raises(StoreError, match="store_url nothing://x"):
        Mirror("nothing://me:secret@x", local)


def test_mirror_unknown_url_fails_at_start(local: Store) -> None:
    command = [
        sys.executable,
        "-m",
        "sparserve.service",
        "--store-url",
        "nothing://me:secret@x",
        "--store",
        str(local.root),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "store_url nothing://x" in ended.stderr
    assert "secret" not in ended.stderr


def test_mirror_service_follows_a_url(
    files: Any,
    origin: Store,
    local: Store,
    serve: Callable[..., TestClient],
    service_of: Callable[[TestClient], ServingCore],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    upload(files, origin)
    client: TestClient = serve(store=local.root, store_url=URL, watch_seconds=0)
    assert client.post(CLASSIFY, json={"inputs": "good"}).status_code == 200
    bundle = newer(origin, 7)
    upload(files, origin)
    catalog = service_of(client).catalog
    catalog.refresh()
    answer = client.post(CLASSIFY, json={"inputs": "good"}).json()
    assert answer["model"]["version"] == bundle.manifest.version
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    catalog.refresh()
    catalog.refresh()
    assert client.post(CLASSIFY, json={"inputs": "good"}).status_code == 200
    assert "sparserve_store_readable 0.0" in client.get("/metrics").text
    assert caplog.text.count("mirrored bundles are still served") == 1
    # Another process starts while the URL cannot be reached: what has been mirrored is enough.
    other: TestClient = serve(store=local.root, store_url=URL, watch_seconds=0)
    assert other.get("/readyz").status_code == 200


def test_mirror_unreachable_url_is_not_ready(files: Any, local: Store, serve: Callable[..., TestClient]) -> None:
    client: TestClient = serve(store=local.root, store_url=URL, watch_seconds=0)
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert URL in ready.json()["detail"]
