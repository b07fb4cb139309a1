"""A store behind an fsspec URL, such as s3://bucket/store, mirrored into a local one.

Bundles are immutable and named by their digest, so each is fetched once, checked against its manifest, and renamed into
place; pointers move only after what they point to is there. So the local store is whole at any time.
"""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import fsspec

from sparserve.models.bundle.bundle import MANIFEST, MAX_MANIFEST_BYTES, open_bundle, parse_manifest
from sparserve.models.bundle.manifest import Manifest
from sparserve.models.bundle.store import CURRENT, DEFAULT, REPORT_FORMATS, Store, is_name, is_version
from sparserve.models.errors import BundleError, StoreError
from sparserve.models.files import settle, temporary_folder, write_atomically

logger = logging.getLogger(__name__)

POINTER_BYTES: Final = 1024
REPORT_BYTES: Final = 64 * 2**20
KEPT_VERSIONS: Final = 3  # of each variant, wanted and current ones among them: the last ones to roll back to

Key = tuple[str, str]


class Mirror:
    """A local store that follows the one at a URL."""

    def __init__(self, url: str, store: Store) -> None:
        """Find the file system of the URL.

        Raises:
            StoreError: there is none for it, or its package is not installed.
        """
        self._store = store
        # What is told and logged: a URL may hold a password.
        parts = urlsplit(url)
        self.place = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        try:
            found: tuple[Any, str] = fsspec.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise StoreError(f"store_url {self.place}: {error}") from error
        self._files, self._root = found
        self._reports: dict[str, Any] = {}
        self._left_out: dict[str, str] = {}

    def sync(self, wanted: Mapping[Key, set[str]]) -> None:
        """Fetch what is new, move the pointers, forget what is gone.

        A bundle that is damaged or not yet complete there is left out, and tried again the next time: the local pointer
        stays where it is.

        Args:
            wanted: versions to have besides the current ones: those that are pinned or served.

        Raises:
            OSError: the URL cannot be read.
        """
        with self._faults_explained():
            self._sync(wanted)

    def fetch(self, task: str, variant: str, version: str) -> None:
        """Have one bundle in the local store.

        Raises:
            BundleError: it is not there, or not whole.
            OSError: the URL cannot be read.
        """
        with self._faults_explained():
            self._fetch(task, variant, version)

    def published(self, task: str, variant: str) -> dict[str, float]:
        """Every version of a variant at the URL, with the Unix time at which it was published there.

        Raises:
            OSError: the URL cannot be read.
        """
        folder, found = f"{self._root}/{task}/{variant}", {}
        with self._faults_explained():
            for version in filter(is_version, self._names(folder)):
                with contextlib.suppress(BundleError, FileNotFoundError):  # one that is no bundle is none to go back to
                    found[version] = self._published(f"{folder}/{version}") or 0
        return found

    @contextlib.contextmanager
    def _faults_explained(self) -> Iterator[None]:
        try:
            yield
        except BundleError:
            raise
        except OSError as error:
            raise OSError(f"the store {self.place} cannot be read: {error}") from error
        except Exception as error:  # every kind of storage has exceptions of its own
            raise OSError(f"the store {self.place} cannot be read: {type(error).__name__}: {error}") from error

    def _sync(self, wanted: Mapping[Key, set[str]]) -> None:
        tasks = [name for name in self._names(self._root) if is_name(name)]
        variants = {task: self._variants(task) for task in tasks}
        for task, found in variants.items():
            for variant, version in found.items():
                kept = [version, *filter(is_version, wanted.get((task, variant), ()))]
                there = [self._is_there(task, variant, one) for one in dict.fromkeys(kept)]
                if there[0]:
                    self._point(self._store.root / task / variant / CURRENT, version)
                    self._prune(task, variant, set(kept))
            default = self._read(f"{self._root}/{task}/{DEFAULT}", POINTER_BYTES)
            if default is not None and is_name(name := default.decode("ascii", "replace").strip()):
                self._point(self._store.root / task / DEFAULT, name)
            self._fetch_reports(task)
        for task in self._store.tasks():
            for variant in self._store.variants(task):
                if variant not in variants.get(task, {}):
                    (self._store.root / task / variant / CURRENT).unlink()

    def _variants(self, task: str) -> dict[str, str]:
        """The current version of each variant that has one."""
        found = {}
        for variant in filter(is_name, self._names(f"{self._root}/{task}")):
            pointer = self._read(f"{self._root}/{task}/{variant}/{CURRENT}", POINTER_BYTES)
            version = pointer.decode("ascii", "replace").strip() if pointer is not None else ""
            if is_version(version):
                found[variant] = version
        return found

    def _is_there(self, task: str, variant: str, version: str) -> bool:
        """Whether the bundle is in the local store, after it was fetched if need be."""
        name = f"{task}/{variant} version {version}"
        try:
            self._fetch(task, variant, version)
        except BundleError as error:
            if self._left_out.get(name) != str(error):  # once, not at every look
                logger.warning("%s is not mirrored: %s", name, error)
            self._left_out[name] = str(error)
            return False
        self._left_out.pop(name, None)
        return True

    def _fetch(self, task: str, variant: str, version: str) -> None:
        target, remote = self._store.folder(task, variant, version), f"{self._root}/{task}/{variant}/{version}"
        if target.is_dir():
            return
        try:
            content, manifest = self._manifest(remote)
            with temporary_folder(target.parent) as stage:
                (stage / MANIFEST).write_bytes(content)
                # The names of a manifest that was parsed are plain paths inside of the bundle.
                for name, record in manifest.files.items():
                    size = self._files.size(f"{remote}/{name}")
                    if size != record.bytes:
                        raise BundleError(f"{name} has {size} bytes, its manifest says {record.bytes}")
                    (stage / name).parent.mkdir(parents=True, exist_ok=True)
                    self._files.get_file(f"{remote}/{name}", str(stage / name))
                open_bundle(stage)
                # A store tells by the time of its manifest when a bundle was published.
                if (published := self._published(remote)) is not None:
                    os.utime(stage / MANIFEST, (published, published))
                settle(stage, target)
        except (BundleError, FileNotFoundError) as error:
            raise BundleError(str(error).replace(f"{target.parent}/", "")) from error
        logger.info("mirrored %s/%s version %s", task, variant, version)

    def _manifest(self, remote: str) -> tuple[bytes, Manifest]:
        content = self._read(f"{remote}/{MANIFEST}", MAX_MANIFEST_BYTES)
        if content is None:
            raise BundleError(f"it has no {MANIFEST} at {self.place}")
        try:
            return content, parse_manifest(json.loads(content), source=MANIFEST)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"its {MANIFEST} is not JSON: {error}") from error

    def _published(self, remote: str) -> float | None:
        """When a bundle was published, else when it was measured, in Unix time; None where nothing tells."""
        with contextlib.suppress(NotImplementedError):
            found: datetime = self._files.modified(f"{remote}/{MANIFEST}")
            return found.timestamp()
        _, manifest = self._manifest(remote)  # HTTP, for one, does not tell
        if manifest.measurement is None:
            return None
        try:
            return datetime.fromisoformat(manifest.measurement.measured_at).timestamp()
        except ValueError:
            return None

    def _fetch_reports(self, task: str) -> None:
        for format, name in REPORT_FORMATS.items():
            remote = f"{self._root}/{task}/{name}"
            if not self._files.exists(remote):
                continue
            state = self._files.checksum(remote)
            if self._reports.get(remote) == state:
                continue
            content = self._read(remote, REPORT_BYTES)
            if content is not None:
                write_atomically(self._store.report_path(task, format), content)
                self._reports[remote] = state

    def _prune(self, task: str, variant: str, wanted: set[str]) -> None:
        """Delete versions beyond the last few."""
        others = [version for version in self._store.versions(task, variant) if version not in wanted]
        for version in others[: max(len(others) + len(wanted) - KEPT_VERSIONS, 0)]:
            shutil.rmtree(self._store.folder(task, variant, version), ignore_errors=True)

    def _names(self, folder: str) -> list[str]:
        return sorted({str(path).rstrip("/").rpartition("/")[2] for path in self._files.ls(folder, detail=False)})

    def _read(self, path: str, most: int) -> bytes | None:
        """A small file's content; None where there is none, or it is larger than it may be."""
        try:
            size = self._files.size(path)
            if size is None or size > most:
                logger.warning("%s has %s bytes, and may have %d: it is left out", path, size, most)
                return None
            content: bytes = self._files.cat_file(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        return content

    def _point(self, pointer: Path, name: str) -> None:
        if not pointer.is_file() or pointer.read_text(encoding="utf-8").strip() != name:
            write_atomically(pointer, name + "\n")
