"""A bundle: an immutable folder with a model, its tokenizer and a manifest that proves what they are.

This is the contract between the job, which writes bundles, and the service, which reads them. It imports neither
torch nor onnx.
"""

import json
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from sparserve.models.bundle.manifest import SCHEMA_VERSION, FileRecord, Manifest
from sparserve.models.errors import BundleError
from sparserve.models.files import settle, sha256, temporary_folder, write_atomically

MANIFEST = "manifest.json"
MODEL = "model.onnx"
SPARSE_MODEL = "model.sparse.onnx"
TOKENIZER = "tokenizer.json"
CARD = "README.md"
MAX_MANIFEST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest has been read. `verify` compares its files with the manifest."""

    folder: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        """The ONNX graph that any runtime opens."""
        return self.folder / MODEL

    @property
    def sparse_model_path(self) -> Path:
        """The graph for the sparse runtime, where the manifest has `packed`."""
        return self.folder / SPARSE_MODEL

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer, readable by `tokenizers` alone."""
        return self.folder / TOKENIZER

    def verify(self) -> None:
        """Compare every file with its record.

        Raises:
            BundleError: a file is missing, unlisted, a link, truncated or changed; the message names the first.
                README.md may be changed: no program reads it.
        """
        for name, record in sorted(self.manifest.files.items()):
            path = self.folder / name
            _refuse_links(self.folder, name)
            try:
                status = path.lstat()
            except OSError as error:
                raise BundleError(f"{self.folder}: {name} is missing; publish the bundle again") from error
            if not stat.S_ISREG(status.st_mode):
                raise BundleError(f"{self.folder}: {name} is not a regular file; publish the bundle again")
            if name == CARD:
                continue  # repeats the manifest, and is replaced after it
            if status.st_size != record.bytes:
                raise BundleError(
                    f"{self.folder}: {name} has {status.st_size} bytes, its manifest says {record.bytes}; "
                    "it was truncated or changed: publish the bundle again"
                )
            if sha256(path) != record.sha256:
                raise BundleError(
                    f"{self.folder}: {name} does not match the SHA-256 in its manifest; publish the bundle again"
                )
        listed = {MANIFEST, *self.manifest.files}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if (path.is_symlink() or not path.is_dir()) and name not in listed:
                raise BundleError(f"{self.folder}: {name} is not in the manifest; remove it")


def open_bundle(folder: Path, *, verify: bool = True) -> Bundle:
    """Read a bundle, by default with all its digests checked.

    Raises:
        BundleError: the folder is not a bundle, its schema version is unknown, or a file differs from the manifest.
    """
    path = folder / MANIFEST
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{path} is not a regular file; publish the bundle again")
        if status.st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"{path} has {status.st_size} bytes, more than the {MAX_MANIFEST_BYTES} of any manifest")
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST}") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON ({error}); publish the bundle again") from error
    manifest = parse_manifest(content, source=str(path))
    if manifest.identity() != manifest.version:
        raise BundleError(
            f"{path}: its content has the digest {manifest.identity()}, not {manifest.version}: it was changed; "
            "publish the bundle again"
        )
    for needed in (MODEL, TOKENIZER):
        if needed not in manifest.files:
            raise BundleError(f"{path} does not list {needed}; publish the bundle again")
    bundle = Bundle(folder, manifest)
    if verify:
        bundle.verify()
    return bundle


def parse_manifest(content: object, *, source: str) -> Manifest:
    """Validate a decoded manifest.

    Raises:
        BundleError: some fields are wrong, or the schema version is newer than this sparserve.
    """
    schema = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(schema, int) and not isinstance(schema, bool) and schema > SCHEMA_VERSION:
        raise BundleError(
            f"{source} has schema version {schema}; this sparserve reads up to {SCHEMA_VERSION}: upgrade sparserve"
        )
    try:
        # Strict mode: a program wrote the manifest, so no value needs a conversion.
        return Manifest.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5])
        raise BundleError(f"{source} is not a valid manifest: {problems}") from error


def write_bundle(parent: Path, manifest: Manifest, files: Mapping[str, Path | bytes]) -> Bundle:
    """Write `parent/<version>` with these files, completely or not at all.

    `manifest.files` and `manifest.version` are computed here. An undamaged bundle of the same version is kept. It gets
    this manifest's measurement if that is newer, except that a measurement with the sparse runtime is never replaced by
    one without it, and its kind of inputs if it has none. A value of `files` is the content or a file to copy.

    Raises:
        EnvironmentFault: the disk is full or `parent` cannot be written.
    """
    with temporary_folder(parent) as stage:
        records = {}
        for name, content in sorted(files.items()):
            path = stage / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                shutil.copyfile(content, path)
            records[name] = FileRecord(sha256=sha256(path), bytes=path.stat().st_size)
        sealed = manifest.model_copy(update={"files": records}).sealed()
        (stage / MANIFEST).write_text(_manifest_json(sealed), encoding="utf-8")
        target = parent / sealed.version
        _remove_damaged(target)
        settle(stage, target)
        if not stage.exists():
            return Bundle(target, sealed)
        kept = open_bundle(target, verify=False)
        newer = _has_newer_measurement(kept.manifest, sealed)
        inputs = sealed.inputs or kept.manifest.inputs
        merged = (sealed if newer else kept.manifest).model_copy(update={"inputs": inputs})
        if merged == kept.manifest:
            return kept
        write_atomically(target / MANIFEST, _manifest_json(merged))
        if newer and (stage / CARD).exists():
            write_atomically(target / CARD, (stage / CARD).read_bytes())
        return Bundle(target, merged)


def _manifest_json(manifest: Manifest) -> str:
    return manifest.model_dump_json(indent=1) + "\n"


def _has_newer_measurement(kept: Manifest, new: Manifest) -> bool:
    before, after = kept.measurement, new.measurement
    if before is None or after is None:
        return after is not None
    return (after.sparse is not None, after.measured_at) > (before.sparse is not None, before.measured_at)


def _remove_damaged(folder: Path) -> None:
    # Error messages advise to publish a damaged bundle again, so publishing must repair it.
    if folder.is_dir() and not folder.is_symlink():
        try:
            open_bundle(folder)
        except BundleError:
            shutil.rmtree(folder)


def _refuse_links(folder: Path, name: str) -> None:
    path = folder
    for part in PurePosixPath(name).parts:
        path = path / part
        if path.is_symlink():
            raise BundleError(f"{folder}: {name} is or passes through a symbolic link; a bundle must contain its files")
