"""A mirror and what is ordered of it: versions that only the URL has, their order, and a URL that does not answer."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from benchmarks.service_process import running, wait_until
from sparserve.models.bundle.store import Store
from sparserve.service.app import create_app
from sparserve.service.catalog import mirror_thread
from sparserve.service.catalog.bundle_loader import BundleLoader
from sparserve.service.catalog.catalog import Catalog
from sparserve.service.errors import InvalidRequest
from sparserve.service.inference.runtime_measurement import RuntimeMeasurements
from sparserve.service.observability.metrics import Metrics
from sparserve.service.settings import Settings
from tests.support.tiny_bundles import TASK, graph, publish

DENSE = f"/v1/models/{TASK}/dense"


@pytest.fixture
def published(store: Store) -> list[str]:
    """Versions of `dense` in the store, each a thousand seconds after the one before, in the order of their names."""
    names = [store.current(TASK, "dense")]
    names += [publish(store, variant="dense", model=graph(seed=seed)).manifest.version for seed in (50, 51, 52)]
    names.sort()
    for place, name in enumerate(names):
        os.utime(store.folder(TASK, "dense", name) / "manifest.json", (1000 * place, 1000 * place))
    store.promote(TASK, "dense", names[-1])
    return names


Follow = Callable[..., Catalog]


@pytest.fixture
def follow(store: Store, tmp_path: Path) -> Iterator[Follow]:
    """A catalog of a mirror of the store, and its catalog."""
    catalogs: list[Catalog] = []

    def start(pins: Mapping[str, str] | None = None) -> Catalog:
        local, metrics = Store(tmp_path / "local"), Metrics()
        loader = BundleLoader(
            local,
            threads=1,
            sample_tolerance=0.02,
            runtime="auto",
            measurements=RuntimeMeasurements(),
            max_model_bytes=None,
            metrics=metrics,
        )
        url = store.root.as_uri()
        catalog = Catalog(local, loader=loader, url=url, pins=pins or {}, watch_seconds=2, metrics=metrics)
        catalogs.append(catalog)
        catalog.refresh()
        return catalog

    yield start
    for catalog in catalogs:
        catalog.close(10)


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[str]:
    """A URL that takes a reader in and does not answer."""
    pipe = tmp_path / "hanging" / TASK / "dense" / "current"
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    yield (tmp_path / "hanging").as_uri()
    os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))  # whoever reads has read the end


def test_mirror_thread_fetches_promoted_version(published: list[str], follow: Follow) -> None:
    catalog = follow()
    assert catalog.store.versions(TASK, "dense") == [published[3]]
    assert catalog.pin(TASK, "dense", published[1]).manifest.version == published[1]
    assert catalog.rollback(TASK, "dense").manifest.version == published[0]
    with pytest.raises(InvalidRequest, match=f"no version before {published[0]}"):
        catalog.rollback(TASK, "dense")
    assert catalog.unpin(TASK, "dense").manifest.version == published[3]
    assert catalog.rollback(TASK, "dense").manifest.version == published[2]


def test_rollback_uses_publication_order(published: list[str], follow: Follow) -> None:
    catalog = follow(pins={f"{TASK}/dense": published[1]})
    assert catalog.rollback(TASK, "dense").manifest.version == published[0]


def test_rollback_without_url_uses_mirrored_versions(
    published: list[str], store: Store, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = follow(pins={f"{TASK}/dense": published[1]})
    assert set(catalog.store.versions(TASK, "dense")) == {published[1], published[3]}
    catalog.pin(TASK, "dense", published[3])
    shutil.rmtree(store.root)
    assert catalog.rollback(TASK, "dense").manifest.version == published[1]
    assert "only mirrored versions can be rolled back to" in caplog.text


@pytest.mark.parametrize("version", ["0" * 16, "../../etc"])
def test_pin_unknown_version(follow: Follow, version: str) -> None:
    catalog = follow()
    with pytest.raises(InvalidRequest, match=r"has no version|it has no manifest\.json at file://"):
        catalog.pin(TASK, "dense", version)


def test_make_default_is_refused_in_a_mirror(store: Store, follow: Follow) -> None:
    catalog = follow()
    with pytest.raises(InvalidRequest, match=r"the store mirrors file://.*sparserve bundles default"):
        catalog.make_default(TASK, "sparse90")
    assert not catalog.store.has_default(TASK)


def test_mirror_keeps_served_version(published: list[str], store: Store, follow: Follow) -> None:
    """The newer ones are refused: of no use for going back to."""
    for version in published[1:]:
        folder = store.folder(TASK, "dense", version)
        shutil.rmtree(folder)
    store.promote(TASK, "dense", published[0])
    catalog = follow()
    for seed in range(5):
        publish(store, variant="dense", model=f"no graph {seed}".encode())
        catalog.refresh()
    assert catalog.engine(TASK, "dense").manifest.version == published[0]
    assert published[0] in catalog.store.versions(TASK, "dense")


def test_mirror_thread_hanging_url_times_out(store: Store, newer: Any, hanging: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(mirror_thread, "MIRROR_TIMEOUT_SECONDS", 0.05)
    settings = Settings(store=store.root, store_url=hanging, threads=1, watch_seconds=0, admin_without_key=True)
    with TestClient(create_app(settings)) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200, "mirrored bundles are still served")
        assert client.post("/v1/admin/refresh").status_code == 200
        promoted = client.post(f"{DENSE}/promote", json={"version": newer.manifest.version})
        assert promoted.json()["version"] == newer.manifest.version
        assert client.post(f"{DENSE}/rollback").json()["version"] != newer.manifest.version
        elsewhere = client.post(f"{DENSE}/promote", json={"version": "0" * 16})
        assert elsewhere.status_code == 503
        assert "takes long to answer: try again" in elsewhere.json()["error"]


def test_mirror_thread_hanging_url_at_first_start(tmp_path: Path, hanging: str) -> None:
    with TestClient(create_app(Settings(store=tmp_path / "none", store_url=hanging, threads=1))) as client:
        wait_until(lambda: "being read for the first time" in client.get("/readyz").json()["detail"], "the reason")


def test_mirror_thread_hanging_url_process_stops(store: Store, hanging: str) -> None:
    with running(store.root, "--store-url", hanging) as service:
        assert service.ask(f"{DENSE}/classify", "POST", {"inputs": "good film"})[0] == 200
        assert service.stop() == 0
