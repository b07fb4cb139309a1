"""The store: pointers that move atomically, and names that stay inside it."""

import os
from pathlib import Path

import pytest

from sparserve.models.bundle.store import Store
from sparserve.models.errors import EnvironmentFault, StoreError
from tests.support.tiny_bundles import TASK, graph, publish


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_store_without_a_folder_is_empty(store: Store) -> None:
    assert store.tasks() == []
    assert store.variants(TASK) == []
    assert store.versions(TASK, "dense") == []


def test_store_opens_what_was_published(store: Store) -> None:
    bundle = publish(store)
    assert store.open(TASK, "dense") == bundle
    assert store.current(TASK, "dense") == bundle.manifest.version
    assert store.tasks() == [TASK]


def test_store_lists_dense_first_and_takes_it_as_default(store: Store) -> None:
    for variant in ("a", "sparse90", "dense"):
        publish(store, variant=variant)
    assert store.variants(TASK) == ["dense", "a", "sparse90"]
    assert store.default_variant(TASK) == "dense"


def test_store_defaults_to_the_first_variant_without_dense(store: Store) -> None:
    publish(store, variant="sparse95")
    publish(store, variant="sparse90")
    assert store.default_variant(TASK) == "sparse90"


def test_store_default_is_ignored_when_its_variant_is_gone(store: Store) -> None:
    publish(store)
    publish(store, variant="sparse90")
    store.set_default_variant(TASK, "sparse90")
    assert store.default_variant(TASK) == "sparse90"
    (store.root / TASK / "sparse90" / "current").unlink()
    assert store.default_variant(TASK) == "dense"
    with pytest.raises(StoreError, match="its variants: dense"):
        store.set_default_variant(TASK, "sparse90")


def test_store_promotes_an_earlier_version(store: Store) -> None:
    one = publish(store, model=graph(seed=1)).manifest.version
    two = publish(store, model=graph(seed=2)).manifest.version
    assert store.current(TASK, "dense") == two
    assert store.versions(TASK, "dense") == [one, two]
    store.promote(TASK, "dense", one)
    assert store.open(TASK, "dense").manifest.version == one


def test_store_refuses_to_promote_an_unknown_version(store: Store) -> None:
    version = publish(store).manifest.version
    with pytest.raises(StoreError, match=f"its versions: {version}"):
        store.promote(TASK, "dense", "f" * 16)
    assert store.current(TASK, "dense") == version


def test_store_refuses_to_remove_the_current_version(store: Store) -> None:
    one = publish(store, model=graph(seed=1)).manifest.version
    with pytest.raises(StoreError, match="promote another version first"):
        store.remove(TASK, "dense", one)
    two = publish(store, model=graph(seed=2)).manifest.version
    store.remove(TASK, "dense", one)
    assert store.versions(TASK, "dense") == [two]
    with pytest.raises(StoreError, match="has no version"):
        store.remove(TASK, "dense", one)


def test_store_refuses_a_bundle_in_another_folder(store: Store) -> None:
    version = publish(store).manifest.version
    (store.root / TASK / "dense").rename(store.root / TASK / "other")
    with pytest.raises(StoreError, match=f"holds the bundle {TASK}/dense/{version}"):
        store.open(TASK, "other")


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", "A", "-a", "a" * 65, "a\n", "a\x00", "ä"])
def test_store_refuses_names_that_could_leave_it(store: Store, name: str) -> None:
    publish(store)
    for ask in (
        lambda: store.current(name, "dense"),
        lambda: store.current(TASK, name),
        lambda: store.report_path(name, "json"),
        lambda: store.variants(name),
    ):
        with pytest.raises(StoreError):
            ask()


@pytest.mark.parametrize("version", ["../..", "current", "F" * 16, "0" * 15])
def test_store_refuses_malformed_versions(store: Store, version: str) -> None:
    publish(store)
    with pytest.raises(StoreError, match="16 hexadecimal digits"):
        store.open(TASK, "dense", version)


@pytest.mark.parametrize("content", [b"", b"../../../etc\n", b"\xff\xfe", b"0" * 17])
def test_store_refuses_a_damaged_pointer(store: Store, content: bytes) -> None:
    publish(store)
    (store.root / TASK / "dense" / "current").write_bytes(content)
    with pytest.raises(StoreError):
        store.open(TASK, "dense")


def test_store_ignores_unfinished_and_linked_folders(store: Store, tmp_path: Path) -> None:
    publish(store)
    (store.root / ".tmp-abc" / "dense").mkdir(parents=True)
    (store.root / TASK / "dense" / ".tmp-abc").mkdir()
    (store.root / "linked").symlink_to(store.root / TASK)
    assert store.tasks() == [TASK]
    assert len(store.versions(TASK, "dense")) == 1


def test_store_keeps_its_pointer_when_publishing_fails(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    version = publish(store, model=graph(seed=1)).manifest.version

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(EnvironmentFault):
            publish(store, model=graph(seed=2))
    assert store.current(TASK, "dense") == version
    assert store.versions(TASK, "dense") == [version]
    assert not list(store.root.rglob(".tmp-*"))
