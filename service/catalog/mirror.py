"""Mirror of a store behind an fsspec URL, such as s3://bucket/store, in a local store.

Bundles are immutable and named by their digest. Each is fetched once, checked against its manifest, and renamed into
place. A pointer moves only after its target has arrived, so the local store is complete at any time.
"""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import fsspec

from sparserve.models.bundle.bundle import MANIFEST, MAX_MANIFEST_BYTES, open_bundle, parse_manifest
from sparserve.models.bundle.manifest import Manifest
from sparserve.models.bundle.store import CURRENT, DEFAULT, REPORT_FORMATS, Store, is_name, is_version
from sparserve.models.errors import BundleError, StoreError
from sparserve.models.files import settle, temporary_folder, write_atomically

if TYPE_CHECKING:
    from sparserve.service.catalog.snapshot import ModelKey

logger = logging.getLogger(__name__)

POINTER_BYTES: Final = 1024
REPORT_BYTES: Final = 64 * 2**20
_FAULTS_OF_ONE_TASK: Final = (
    StoreError,
    PermissionError,
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
)
KEPT_VERSIONS: Final = 3  # per variant, required and current ones included; the rest are for a rollback


class Mirror:
    """Keeps a local store in sync with the one at a URL."""

    def __init__(self, url: str, store: Store) -> None:
        """Open the file system of the URL.

        Raises:
            StoreError: the URL is of an unknown kind, or its package is not installed.
        """
        self._store = store
        # For messages and logs: a URL may contain a password.
        parts = urlsplit(url)
        self.place = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        try:
            file_system: tuple[Any, str] = fsspec.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise StoreError(f"store_url {self.place}: {error}") from error
        self._files, self._root = file_system
        self._reports: dict[str, Any] = {}
        self._skipped: dict[str, str] = {}

    def sync(self, required: "Mapping[ModelKey, set[str]]") -> None:
        """Fetch new bundles, move the pointers, and drop deleted variants.

        A bundle that is damaged or incomplete at the URL is skipped and tried again at the next sync; until then the
        local pointer stays. So is a task that cannot be read at the URL, or not be written in the local store.

        Args:
            required: versions to keep besides the current ones: the pinned and the served ones.

        Raises:
            OSError: the URL cannot be read.
        """
        with self._translated_errors():
            self._sync(required)

    def fetch(self, task: str, variant: str, version: str) -> None:
        """Copy one bundle into the local store, unless it is there already.

        Raises:
            BundleError: it is missing or incomplete at the URL.
            OSError: the URL cannot be read.
        """
        with self._translated_errors():
            self._fetch(task, variant, version)

    def published(self, task: str, variant: str) -> dict[str, float]:
        """Return every version of a variant at the URL with its publication time in Unix seconds.

        Raises:
            OSError: the URL cannot be read.
        """
        folder, times = f"{self._root}/{task}/{variant}", {}
        with self._translated_errors():
            for version in filter(is_version, self._names(folder)):
                with contextlib.suppress(BundleError, FileNotFoundError):  # not a bundle: no target for a rollback
                    times[version] = self._published(f"{folder}/{version}") or 0
        return times

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except BundleError:
            raise
        except OSError as error:
            raise OSError(f"the store {self.place} cannot be read: {error}") from error
        except Exception as error:  # each storage library has its own exceptions
            raise OSError(f"the store {self.place} cannot be read: {type(error).__name__}: {error}") from error

    def _sync(self, required: "Mapping[ModelKey, set[str]]") -> None:
        tasks = [name for name in self._names(self._root) if is_name(name)]
        failed: dict[str, Exception] = {}
        for task in dict.fromkeys([*tasks, *self._store.tasks()]):
            try:
                self._sync_task(task, self._variants(task) if task in tasks else {}, required)
            except _FAULTS_OF_ONE_TASK as error:
                failed[task] = error
                self._note_skipped(f"the task {task}", str(error))
            else:
                self._skipped.pop(f"the task {task}", None)
        if tasks and failed.keys() >= set(tasks):  # a fault of the URL or of the local store
            raise failed[tasks[0]]

    def _sync_task(self, task: str, current: dict[str, str], required: "Mapping[ModelKey, set[str]]") -> None:
        present = self._store.variants(task)
        for variant, version in current.items():
            kept = [version, *filter(is_version, required.get((task, variant), ()))]
            available = [self._ensure_local(task, variant, one) for one in dict.fromkeys(kept)]
            if available[0]:
                self._point(self._store.root / task / variant / CURRENT, version)
                self._prune(task, variant, set(kept))
        default = self._read(f"{self._root}/{task}/{DEFAULT}", POINTER_BYTES)
        if default is not None and is_name(name := default.decode("ascii", "replace").strip()):
            self._point(self._store.root / task / DEFAULT, name)
        self._fetch_reports(task)
        for variant in present:
            if variant not in current:
                self._store.withdraw(task, variant)

    def _variants(self, task: str) -> dict[str, str]:
        """Return the current version of each variant that has one."""
        versions = {}
        for variant in filter(is_name, self._names(f"{self._root}/{task}")):
            pointer = self._read(f"{self._root}/{task}/{variant}/{CURRENT}", POINTER_BYTES)
            version = pointer.decode("ascii", "replace").strip() if pointer is not None else ""
            if is_version(version):
                versions[variant] = version
        return versions

    def _ensure_local(self, task: str, variant: str, version: str) -> bool:
        """Fetch the bundle if necessary; return True if it is in the local store."""
        name = f"{task}/{variant} version {version}"
        try:
            self._fetch(task, variant, version)
        except BundleError as error:
            self._note_skipped(name, str(error))
            return False
        self._skipped.pop(name, None)
        return True

    def _note_skipped(self, name: str, reason: str) -> None:
        if self._skipped.get(name) != reason:  # once, not at every sync
            logger.warning("%s is not mirrored: %s", name, reason)
        self._skipped[name] = reason

    def _fetch(self, task: str, variant: str, version: str) -> None:
        target, remote = self._store.folder(task, variant, version), f"{self._root}/{task}/{variant}/{version}"
        if target.is_dir():
            return
        try:
            content, manifest = self._manifest(remote)
            with temporary_folder(target.parent) as stage:
                (stage / MANIFEST).write_bytes(content)
                # Names of a parsed manifest are plain paths inside the bundle.
                for name, record in manifest.files.items():
                    size = self._files.size(f"{remote}/{name}")
                    if size != record.bytes:
                        raise BundleError(f"{name} has {size} bytes, its manifest says {record.bytes}")
                    (stage / name).parent.mkdir(parents=True, exist_ok=True)
                    self._files.get_file(f"{remote}/{name}", str(stage / name))
                open_bundle(stage)
                # The modification time of its manifest is the publication time of a bundle.
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
        """Return the publication time of a bundle in Unix seconds, else its measurement time, else None."""
        with contextlib.suppress(NotImplementedError):
            modified: datetime = self._files.modified(f"{remote}/{MANIFEST}")
            return modified.timestamp()
        _, manifest = self._manifest(remote)  # HTTP, for example, has no modification time
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

    def _prune(self, task: str, variant: str, required: set[str]) -> None:
        """Delete all but the last few versions."""
        others = [version for version in self._store.versions(task, variant) if version not in required]
        for version in others[: max(len(others) + len(required) - KEPT_VERSIONS, 0)]:
            shutil.rmtree(self._store.folder(task, variant, version), ignore_errors=True)

    def _names(self, folder: str) -> list[str]:
        return sorted({str(path).rstrip("/").rpartition("/")[2] for path in self._files.ls(folder, detail=False)})

    def _read(self, path: str, max_bytes: int) -> bytes | None:
        """Return the content of a small file, or None if it is missing or too large."""
        try:
            size = self._files.size(path)
            if size is None or size > max_bytes:
                logger.warning("%s has %s bytes, the limit is %d: it is skipped", path, size, max_bytes)
                return None
            content: bytes = self._files.cat_file(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        return content

    def _point(self, pointer: Path, name: str) -> None:
        if not pointer.is_file() or pointer.read_text(encoding="utf-8").strip() != name:
            write_atomically(pointer, name + "\n")
