"""The store: pointers that move atomically, and names that stay inside it."""

import os
from collections.abc import Callable
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


def test_store_ignores_unfinished_folders(store: Store) -> None:
    publish(store)
    (store.root / ".tmp-abc" / "dense").mkdir(parents=True)
    (store.root / TASK / "dense" / ".tmp-abc").mkdir()
    assert store.tasks() == [TASK]
    assert len(store.versions(TASK, "dense")) == 1


@pytest.mark.parametrize("target", ["here", "missing"])
def test_store_refuses_linked_folders(store: Store, target: str) -> None:
    version = publish(store).manifest.version
    targets = {"here": store.root / TASK, "missing": store.root / "missing"}
    (store.root / "linked").symlink_to(targets[target])
    (store.root / TASK / "sparse90").symlink_to(targets[target])
    (store.root / TASK / "dense" / ("0" * 16)).symlink_to(store.folder(TASK, "dense"))
    (store.root / TASK / "default").symlink_to("missing")
    (store.root / "notes.txt").symlink_to(store.folder(TASK, "dense") / "manifest.json")
    assert store.tasks() == ["linked", TASK]
    assert store.variants(TASK) == ["dense", "sparse90"]
    assert store.versions(TASK, "dense") == [version]
    assert store.default_variant(TASK) == "dense"
    with pytest.raises(StoreError, match="linked is a link, which could lead out of the store"):
        store.variants("linked")
    with pytest.raises(StoreError, match="sparse90 is a link"):
        store.current(TASK, "sparse90")
    with pytest.raises(StoreError, match="is a link"):
        store.promote(TASK, "dense", "0" * 16)


@pytest.mark.parametrize(("make", "reason"), [(Path.mkdir, "cannot be read"), (None, "does not exist")])
def test_store_refuses_pointers_that_are_no_files(
    store: Store, make: Callable[[Path], None] | None, reason: str
) -> None:
    publish(store)
    for pointer in (store.root / TASK / "dense" / "current", store.root / TASK / "default"):
        pointer.unlink(missing_ok=True)
        make(pointer) if make else pointer.symlink_to("missing")
    assert store.variants(TASK) == ["dense"]
    with pytest.raises(StoreError, match=reason):
        store.current(TASK, "dense")


def test_store_names_folders_that_no_task_can_have(store: Store) -> None:
    publish(store)
    publish(store, task="reviews").folder.parent.parent.rename(store.root / "My Reviews")
    (store.root / "My Notes").mkdir()
    assert store.tasks() == [TASK]
    assert store.misnamed() == [store.root / "My Reviews"]


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
