"""A store of bundles: `<root>/<task>/<variant>/<version>/`, with pointers that move atomically.

There are two kinds of pointer, each a small text file. `<task>/<variant>/current` names the version that answers for a
variant; `<task>/default` names the variant that answers for a task. A task's report is stored beside them.

The folders of tasks, variants and versions are folders, not links: a link could lead out of the store. A link is
refused with a message, and so is what cannot be read; the other tasks are not affected.
"""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from sparserve.models.bundle.bundle import MANIFEST, Bundle, open_bundle, write_bundle
from sparserve.models.bundle.manifest import Manifest
from sparserve.models.bundle.variants import DENSE
from sparserve.models.errors import StoreError
from sparserve.models.files import write_atomically

CURRENT = "current"
DEFAULT = "default"
REPORT_FORMATS = {"json": "report.json", "markdown": "report.md", "html": "report.html"}
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, init=False)
class Store:
    """A folder of bundles."""

    root: Path

    def __init__(self, root: str | PathLike[str]) -> None:
        object.__setattr__(self, "root", Path(root))

    def tasks(self) -> list[str]:
        """Return the names of the tasks that have at least one variant, or whose folder is refused.

        Raises:
            OSError: the store cannot be read.
        """
        return [name for name in _folder_names(self.root) if self._is_task(name)]

    def variants(self, task: str) -> list[str]:
        """Return the names of a task's variants that have a current version: `dense` first, the others sorted.

        They include variants whose folder or pointer is refused, which `current` explains.

        Raises:
            StoreError: the task's folder is a link or cannot be read.
        """
        folder = self._task(task)
        try:
            names = [name for name in _folder_names(folder) if _may_be_variant(folder / name)]
        except OSError as error:
            raise StoreError(_unreadable(folder, error)) from error
        return sorted(names, key=lambda name: (name != DENSE, name))

    def misnamed(self) -> list[Path]:
        """Return the folders that hold variants, but whose names no task can have. Hidden folders do not count.

        Raises:
            OSError: the store cannot be read.
        """
        others = [folder for folder in _folders(self.root) if not is_name(folder.name) and folder.name[0] != "."]
        return [folder for folder in others if any(folder.glob(f"*/{CURRENT}"))]

    def versions(self, task: str, variant: str, elsewhere: Mapping[str, float] | None = None) -> list[str]:
        """Return the versions of a variant, oldest first.

        `elsewhere` has the Unix times at which versions were published in the store that this one mirrors. They take
        precedence over the times in this store.
        """
        parent = self._variant(task, variant)
        try:
            folders = [f for f in _folders(parent) if _VERSION.fullmatch(f.name)]
        except OSError as error:
            raise StoreError(_unreadable(parent, error)) from error
        published = {folder.name: _published(folder) for folder in folders} | dict(elsewhere or {})
        return sorted(published, key=lambda version: (published[version], version))

    def current(self, task: str, variant: str) -> str:
        """Return the version that answers for a variant.

        Raises:
            StoreError: there is no such variant, its folder is a link, or its pointer is damaged.
        """
        pointer = self._variant(task, variant) / CURRENT
        try:
            version = pointer.read_text(encoding="utf-8", errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError) as error:
            if pointer.is_symlink():
                raise StoreError(f"{pointer} is a link to a file that does not exist: promote a version") from error
            known = ", ".join(self.variants(task)) or "none"
            raise StoreError(
                f"{self.root} has no variant {variant!r} of task {task!r}; its variants: {known}"
            ) from error
        except OSError as error:
            raise StoreError(_unreadable(pointer, error)) from error
        if not _VERSION.fullmatch(version):
            raise StoreError(f"{pointer} does not name a version; promote one of {self.versions(task, variant)}")
        return version

    def folder(self, task: str, variant: str, version: str | None = None) -> Path:
        """Return the folder of a bundle, by default of the variant's current version.

        Raises:
            StoreError: the name is not one of a version, or a folder on the way is a link.
        """
        version = version or self.current(task, variant)
        if not _VERSION.fullmatch(version):
            raise StoreError(f"{version!r} is not a version: a version has 16 hexadecimal digits")
        return _no_link(self._variant(task, variant) / version)

    def open(self, task: str, variant: str, version: str | None = None, *, verify: bool = True) -> Bundle:
        """Read a bundle and, by default, check its digests.

        Raises:
            StoreError: there is no such variant, or the folder holds another bundle.
            BundleError: a file of the bundle differs from its manifest.
        """
        bundle = open_bundle(self.folder(task, variant, version), verify=verify)
        manifest = bundle.manifest
        expected = (task, variant, bundle.folder.name)
        if (manifest.task, manifest.variant, manifest.version) != expected:
            name = f"{manifest.task}/{manifest.variant}/{manifest.version}"
            raise StoreError(f"{bundle.folder} holds the bundle {name}: move it to the folder of that name")
        return bundle

    def publish(self, manifest: Manifest, files: Mapping[str, Path | bytes]) -> Bundle:
        """Write a bundle and make it its variant's current version."""
        bundle = write_bundle(self._variant(manifest.task, manifest.variant), manifest, files)
        self.promote(manifest.task, manifest.variant, bundle.manifest.version)
        return bundle

    def promote(self, task: str, variant: str, version: str) -> None:
        """Make this version the one that answers for its variant.

        Raises:
            StoreError: there is no such version.
        """
        if not (self.folder(task, variant, version) / MANIFEST).is_file():
            known = ", ".join(self.versions(task, variant)) or "none"
            raise StoreError(f"{task}/{variant} has no version {version}; its versions: {known}")
        write_atomically(self._variant(task, variant) / CURRENT, version + "\n")

    def withdraw(self, task: str, variant: str) -> None:
        """Delete the pointer of a variant, which then is none until a version is promoted."""
        (self._variant(task, variant) / CURRENT).unlink()

    def version_before(
        self, task: str, variant: str, version: str, elsewhere: Mapping[str, float] | None = None
    ) -> str:
        """Return the version of a variant that was published before this one; `elsewhere` as for `versions`.

        Raises:
            StoreError: there is no earlier version, or no such version.
        """
        versions = self.versions(task, variant, elsewhere)
        place = versions.index(version) if version in versions else 0
        if place == 0:
            known = ", ".join(versions) or "none"
            raise StoreError(f"{task}/{variant} has no version before {version}; its versions, oldest first: {known}")
        return versions[place - 1]

    def rollback(self, task: str, variant: str) -> str:
        """Promote the version that was published before the current one, and return it.

        Raises:
            StoreError: there is no earlier version.
        """
        version = self.version_before(task, variant, self.current(task, variant))
        self.promote(task, variant, version)
        return version

    def default_variant(self, task: str) -> str:
        """Return the variant that answers for a task: the one that was set, or else the first.

        Raises:
            StoreError: there is no such task, or its folder or its pointer cannot be read.
        """
        variants = self.variants(task)
        if not variants:
            raise StoreError(f"{self.root} has no task {task!r}; its tasks: {', '.join(self.tasks()) or 'none'}")
        pointer = self.root / task / DEFAULT
        try:
            # A damaged pointer counts as none. Names are ASCII.
            name = pointer.read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            name = ""
        except OSError as error:  # another variant than the one that was chosen would answer
            raise StoreError(_unreadable(pointer, error)) from error
        return name if name in variants else variants[0]

    def has_default(self, task: str) -> bool:
        """Return True if the variant that answers for a task was set."""
        return (self._task(task) / DEFAULT).is_file()

    def set_default_variant(self, task: str, variant: str) -> None:
        """Make this variant the one that answers for a task.

        Raises:
            StoreError: there is no such variant.
        """
        self.current(task, variant)
        write_atomically(self.root / task / DEFAULT, variant + "\n")

    def remove(self, task: str, variant: str, version: str) -> None:
        """Delete a version that is not the current one.

        Raises:
            StoreError: it is the current version, or there is no such version.
        """
        if version == self.current(task, variant):
            raise StoreError(f"{version} is the current version of {task}/{variant}: promote another version first")
        folder = self.folder(task, variant, version)
        if not folder.is_dir():
            raise StoreError(f"{task}/{variant} has no version {version}")
        shutil.rmtree(folder)

    def report_path(self, task: str, format: str) -> Path:
        """Return the path of a task's report in a format: "json", "markdown" or "html"."""
        return self._task(task) / REPORT_FORMATS[format]

    def _task(self, task: str) -> Path:
        return _no_link(self.root / _checked(task, "task"))

    def _variant(self, task: str, variant: str) -> Path:
        return _no_link(self._task(task) / _checked(variant, "variant"))

    def _is_task(self, name: str) -> bool:
        try:
            return bool(self.variants(name))
        except StoreError:
            return True


def is_name(name: str) -> bool:
    """Return True if a task or a variant can have this name."""
    return _NAME.fullmatch(name) is not None


def is_version(name: str) -> bool:
    """Return True if this is the name of a version."""
    return _VERSION.fullmatch(name) is not None


def _checked(name: str, what: str) -> str:
    if not is_name(name):
        raise StoreError(
            f"{name!r} cannot be the name of a {what}: use 1 to 64 of a-z, 0-9, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    return name


def _published(bundle: Path) -> float:
    """Return the Unix time of a bundle's publication: its manifest's, which is written last; 0 without a manifest."""
    try:
        return (bundle / MANIFEST).stat().st_mtime
    except OSError:
        return 0


def _no_link(folder: Path) -> Path:
    if os.path.islink(folder):
        raise StoreError(f"{folder} is a link, which could lead out of the store: put the folder itself in its place")
    return folder


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path} cannot be read ({error.strerror or error}): correct it or its permissions, or delete it"


def _folders(parent: Path) -> list[Path]:
    """Return the folders in a folder that are no links; none if there is no such folder."""
    return [parent / entry.name for entry in _entries(parent) if entry.is_dir(follow_symlinks=False)]


def _folder_names(parent: Path) -> list[str]:
    """Return the names of the folders, and of the links to folders or to nothing, that can be those of a bundle."""
    names = [entry.name for entry in _entries(parent) if _may_be_folder(entry)]
    return [name for name in names if is_name(name)]


def _entries(parent: Path) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(parent) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _may_be_folder(entry: "os.DirEntry[str]") -> bool:
    if not entry.is_symlink():
        return entry.is_dir()
    try:
        return not entry.is_file() and entry.name not in (DEFAULT, *REPORT_FORMATS.values())
    except OSError:
        return True


def _may_be_variant(folder: Path) -> bool:
    """Return True for a folder with a pointer, and for one that `Store.current` refuses."""
    try:
        return folder.is_symlink() or bool((folder / CURRENT).lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
