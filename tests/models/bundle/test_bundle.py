"""Bundles: written atomically, read back verified; damaged and hostile ones are refused."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from sparserve.models.bundle.bundle import MAX_MANIFEST_BYTES, Bundle, open_bundle, write_bundle
from sparserve.models.bundle.manifest import Machine, Measurement, Sizes, SparseMeasurement, TokenTable
from sparserve.models.errors import BundleError, EnvironmentFault
from tests.support.tiny_bundles import graph, manifest, tokenizer_json

ATTACKS = Path(__file__).parents[2] / "attacks" / "manifests"
REASONS = {
    "bytes-negative": "files.model.onnx.bytes",
    "cut": "is not JSON",
    "deep": "is not JSON",
    "digest-short": "files.model.onnx.sha256",
    "edited": "it was changed",
    "empty": "is not JSON",
    "labels-none": "labels",
    "labels-numbers": "labels.0",
    "labels-twice": "labels must be distinct",
    "later-schema": "upgrade sparserve",
    "length-huge": "max_length",
    "length-negative": "max_length",
    "list": "should be an object",
    "long-number": "is not JSON",
    "no-model": "does not list model.onnx",
    "not-utf8": "is not JSON",
    "null": "should be an object",
    "number-as-text": "max_length",
    "pad-negative": "pad_token_id",
    "path-absolute": "is not a plain path inside the bundle",
    "path-backslash": "is not a plain path inside the bundle",
    "path-dot": "is not a plain path inside the bundle",
    "path-double-slash": "is not a plain path inside the bundle",
    "path-drive": "is not a plain path inside the bundle",
    "path-empty": "is not a plain path inside the bundle",
    "path-nul": "is not a plain path inside the bundle",
    "path-parent": "is not a plain path inside the bundle",
    "path-parent-inside": "is not a plain path inside the bundle",
    "sample-infinity": "sample.0.logits.0",
    "sample-nan": "sample.0.logits.0",
    "sample-surrogate": "Invalid JSON",
    "schema-text": "schema_version",
    "schema-zero": "schema_version",
    "task-climbs": "task",
    "unknown-field": "__class__",
    "variant-upper": "variant",
    "version-climbs": "version",
}
FILES: dict[str, Path | bytes] = {
    "model.onnx": graph(),
    "tokenizer.json": tokenizer_json(),
    "README.md": b"card",
    "checkpoint/config.json": b"{}",
}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path, manifest(), FILES)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_open_bundle_reads_what_write_bundle_wrote(bundle: Bundle) -> None:
    read = open_bundle(bundle.folder)
    assert read == bundle
    assert read.folder.name == read.manifest.version == read.manifest.identity()
    for name, content in FILES.items():
        assert (read.folder / name).read_bytes() == content


def test_write_bundle_copies_files_given_as_paths(tmp_path: Path, bundle: Bundle) -> None:
    source = tmp_path / "source.onnx"
    source.write_bytes(graph())
    other = write_bundle(tmp_path / "other", manifest(), {**FILES, "model.onnx": source})
    assert other.manifest.version == bundle.manifest.version


def measured(day: int, *, sparse: bool = False) -> Measurement:
    machine = Machine(cpu="x", isa=(), cores=1, memory_bytes=1, system="x", python="3", onnxruntime="1")
    packed = SparseMeasurement(
        isa="avx2",
        rows=1,
        accuracy=1.0,
        same_labels=1.0,
        largest_difference=0.0,
        resident_bytes=1,
        latency=(),
        faster_at=(),
        preferred=True,
    )
    return Measurement(
        measured_at=f"2026-01-0{day}T00:00:00+00:00",
        machine=machine,
        threads=1,
        repeats=1,
        resident_bytes=1,
        latency=(),
        sparse=packed if sparse else None,
    )


def test_version_does_not_depend_on_the_measurement(tmp_path: Path, bundle: Bundle) -> None:
    again = manifest(measurement=measured(1), sizes=Sizes(onnx=1, onnx_zipped=1))
    other = write_bundle(tmp_path / "other", again, {**FILES, "README.md": b"another card"})
    assert other.manifest.version == bundle.manifest.version


def test_write_bundle_adds_the_kind_of_inputs_to_an_older_bundle(tmp_path: Path) -> None:
    older = write_bundle(tmp_path, manifest(measurement=measured(2)), FILES)
    again = write_bundle(tmp_path, manifest(measurement=measured(1), inputs="pair"), FILES)
    assert again.manifest == older.manifest.model_copy(update={"inputs": "pair"})
    assert open_bundle(older.folder).manifest == again.manifest
    assert write_bundle(tmp_path, manifest(measurement=measured(3)), FILES).manifest.inputs == "pair"


def test_open_bundle_reads_manifests_without_later_fields(bundle: Bundle) -> None:
    path = bundle.folder / "manifest.json"
    content = json.loads(path.read_bytes())
    assert content.pop("packed") is content.pop("token_table") is content.pop("inputs") is None
    path.write_text(json.dumps(content))
    assert open_bundle(bundle.folder).manifest == bundle.manifest


@pytest.mark.parametrize(
    "fields, files",
    [
        ({"labels": ("a", "b")}, {}),
        ({"token_table": TokenTable(tokens=9, rows=5, rank=None, energy_kept=1.0)}, {}),
        ({"max_length": 64}, {}),
        ({"recipe": {"a": 1}}, {}),
        ({}, {"model.onnx": graph(seed=1)}),
        ({}, {"checkpoint/config.json": b"{ }"}),
    ],
)
def test_version_depends_on_the_content(
    tmp_path: Path, bundle: Bundle, fields: dict[str, Any], files: dict[str, Path | bytes]
) -> None:
    other = write_bundle(tmp_path, manifest(**fields), {**FILES, **files})
    assert other.manifest.version != bundle.manifest.version


def test_write_bundle_keeps_an_existing_bundle(tmp_path: Path, bundle: Bundle) -> None:
    before = (bundle.folder / "model.onnx").stat().st_mtime_ns
    assert write_bundle(tmp_path, manifest(), FILES).folder == bundle.folder
    assert (bundle.folder / "model.onnx").stat().st_mtime_ns == before
    assert entries(tmp_path) == [bundle.manifest.version]


@pytest.mark.parametrize(
    ("first", "then", "kept"),
    [
        (measured(1), measured(2), measured(2)),
        (measured(2), measured(1), measured(2)),
        (measured(2), measured(1, sparse=True), measured(1, sparse=True)),
        (measured(1, sparse=True), measured(2), measured(1, sparse=True)),
        (None, measured(1), measured(1)),
        (measured(1), None, measured(1)),
    ],
)
def test_write_bundle_replaces_an_older_measurement(
    tmp_path: Path, first: Measurement | None, then: Measurement | None, kept: Measurement
) -> None:
    before = write_bundle(tmp_path, manifest(measurement=first), {**FILES, "README.md": b"first"})
    after = write_bundle(tmp_path, manifest(measurement=then), {**FILES, "README.md": b"then"})
    assert after == open_bundle(before.folder)
    assert after.manifest.measurement == kept
    assert (before.folder / "README.md").read_bytes() == (b"first" if kept == first else b"then")
    assert entries(tmp_path) == [before.folder.name]


def test_write_bundle_repairs_a_damaged_bundle(tmp_path: Path, bundle: Bundle) -> None:
    os.truncate(bundle.folder / "model.onnx", 10)
    assert write_bundle(tmp_path, manifest(), FILES).folder == bundle.folder
    open_bundle(bundle.folder)
    assert entries(tmp_path) == [bundle.manifest.version]


def test_open_bundle_refuses_an_unlisted_link_to_a_folder(tmp_path: Path, bundle: Bundle) -> None:
    (bundle.folder / "extra").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(BundleError, match="extra is not in the manifest"):
        open_bundle(bundle.folder)


def test_write_bundle_leaves_nothing_when_a_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_bundle(tmp_path, manifest(), {**FILES, "zzz": tmp_path / "missing"})
    assert entries(tmp_path) == []


def test_write_bundle_leaves_nothing_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFault, match="the disk is full"):
        write_bundle(tmp_path, manifest(), FILES)
    assert entries(tmp_path) == []


def test_write_bundle_explains_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="is in the way"):
        write_bundle(tmp_path / "file", manifest(), FILES)


@pytest.mark.parametrize("name", [name for name in FILES if name != "README.md"])
def test_open_bundle_names_a_truncated_changed_or_missing_file(bundle: Bundle, name: str) -> None:
    path = bundle.folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(BundleError, match=rf"{name} has {len(content) - 1} bytes, its manifest says {len(content)}"):
        open_bundle(bundle.folder)
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(BundleError, match=f"{name} does not match the SHA-256"):
        open_bundle(bundle.folder)
    path.unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        open_bundle(bundle.folder)


def test_open_bundle_accepts_a_changed_card_but_not_a_missing_one(bundle: Bundle) -> None:
    (bundle.folder / "README.md").write_text("a new measurement's, its manifest not there yet")
    open_bundle(bundle.folder)
    (bundle.folder / "README.md").unlink()
    with pytest.raises(BundleError, match=r"README\.md is missing"):
        open_bundle(bundle.folder)


def test_open_bundle_refuses_an_unlisted_file(bundle: Bundle) -> None:
    (bundle.folder / "checkpoint" / "extra.bin").write_bytes(b"")
    with pytest.raises(BundleError, match=r"checkpoint/extra\.bin is not in the manifest"):
        open_bundle(bundle.folder)


@pytest.mark.parametrize("name", ["model.onnx", "checkpoint", "manifest.json"])
def test_open_bundle_refuses_links_to_the_right_content(tmp_path: Path, bundle: Bundle, name: str) -> None:
    path = bundle.folder / name
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match=r"link|not a regular file"):
        open_bundle(bundle.folder)


def test_open_bundle_refuses_a_pipe_without_blocking(bundle: Bundle) -> None:
    for name in ("model.onnx", "manifest.json"):
        (bundle.folder / name).unlink()
        os.mkfifo(bundle.folder / name)
        with pytest.raises(BundleError, match="not a regular file"):
            bundle.verify() if name == "model.onnx" else open_bundle(bundle.folder)


def test_open_bundle_refuses_a_huge_manifest(bundle: Bundle) -> None:
    os.truncate(bundle.folder / "manifest.json", MAX_MANIFEST_BYTES + 1)
    with pytest.raises(BundleError, match="more than the"):
        open_bundle(bundle.folder)


def test_open_bundle_refuses_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"it has no manifest\.json"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("attack", sorted(ATTACKS.iterdir()), ids=lambda path: path.stem)
def test_open_bundle_refuses_hostile_manifests(tmp_path: Path, attack: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(attack.read_bytes())
    with pytest.raises(BundleError) as refused:
        open_bundle(tmp_path, verify=False)
    assert REASONS[attack.stem] in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_hostile_manifests_all_have_a_reason() -> None:
    assert {path.stem for path in ATTACKS.iterdir()} == set(REASONS)


def test_manifest_on_disk_is_plain_json(bundle: Bundle) -> None:
    content = json.loads((bundle.folder / "manifest.json").read_text(encoding="utf-8"))
    assert content["schema_version"] == 1
    assert set(content["files"]) == set(FILES)
