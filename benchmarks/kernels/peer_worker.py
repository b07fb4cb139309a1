"""Time one peer runtime in its environment, which has the peer and numpy but not this project.

Reads a JSON object from stdin, for example `{"format": "openvino", "model": "plain.onnx", "inputs": ["input_ids"],
"vocabulary": 30522, "batch": 1, "length": 128, "threads": 1, "repeats": 7}`, and writes one to stdout:
`{"seconds": [...]}` with one number per repeat after the warm-up, `{"version": "..."}` if there is no model, or
`{"error": "..."}`. Of several settings of a peer, the one with the lowest median answers.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

WARMUP = 3
# Texts with which NNCF finds the ranges of activations, and their length.
CALIBRATION_TEXTS = 32
CALIBRATION_LENGTH = 64

Run = Callable[[], object]
Request = Mapping[str, Any]


@contextmanager
def openvino_run(request: Request) -> Iterator[Run]:
    yield from compiled_run(Path(request["model"]), request)


def quantized_run(preset: str) -> Callable[[Request], Any]:
    """Return a maker of runs of the model that NNCF has quantised with a preset, once for all cells."""

    @contextmanager
    def run(request: Request) -> Iterator[Run]:
        source = Path(request["model"])
        target = source.with_suffix(f".{preset}.xml")
        if not target.exists():
            quantize(source, target, preset, request)
        yield from compiled_run(target, request)

    return run


def quantize(source: Path, target: Path, preset: str, request: Request) -> None:
    """Write the model with int8 weights and activations: linears and the products of attention."""
    import nncf  # type: ignore[import-not-found]
    import openvino  # type: ignore[import-not-found]

    random = np.random.default_rng(0)
    texts = random.integers(1, request["vocabulary"], (CALIBRATION_TEXTS, 1, CALIBRATION_LENGTH), dtype=np.int64)
    samples = [feed(request["inputs"], text) for text in texts]
    network = nncf.quantize(
        openvino.Core().read_model(source),
        nncf.Dataset(samples),
        preset=nncf.QuantizationPreset(preset),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(samples),
    )
    openvino.save_model(network, target, compress_to_fp16=False)


def compiled_run(model: Path, request: Request) -> Iterator[Run]:
    import openvino

    core = openvino.Core()
    network = core.read_model(model)
    # A fixed shape is the fastest setting of this peer.
    network.reshape({name: [request["batch"], request["length"]] for name in request["inputs"]})
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": request["threads"],
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",  # the default is bfloat16 where available; the other arms use fp32
    }
    infer = core.compile_model(network, "CPU", options).create_infer_request()
    inputs = feed(request["inputs"], np.ones((request["batch"], request["length"]), dtype=np.int64))
    yield lambda: infer.infer(inputs, share_inputs=True, share_outputs=True)


@contextmanager
def deepsparse_run(request: Request) -> Iterator[Run]:
    import deepsparse  # type: ignore[import-not-found]
    import onnx

    batch, length = request["batch"], request["length"]
    # DeepSparse writes given input shapes into its input file.
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(request["model"], Path(folder) / "model.onnx"))
        order = [value.name for value in onnx.load(str(copy), load_external_data=False).graph.input]
        shapes = [[batch, length] for _ in order]
        engine = deepsparse.Engine(str(copy), batch_size=batch, num_cores=request["threads"], input_shapes=shapes)
        inputs = [np.ones((batch, length), dtype=np.int64) for _ in order]
        yield lambda: engine.run(inputs, val_inp=False)


def feed(names: list[str], ids: Any) -> dict[str, Any]:
    """Return the inputs of a graph for token ids without padding."""
    values = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {name: values[name] for name in names}


# The settings of each peer.
PEERS = {
    "openvino": [openvino_run],
    "openvino-int8": [quantized_run("performance"), quantized_run("mixed")],
    "deepsparse": [deepsparse_run],
}
PACKAGES = {"openvino-int8": ("openvino", "nncf")}


def answer_to(request: Request) -> dict[str, Any]:
    """Return the wall seconds of each repeat, or the version of the peer if the request has no model."""
    kind = request["format"]
    if "model" not in request:
        return {"version": ", ".join(map(version, PACKAGES.get(kind, (kind,))))}
    runs = []
    for setting in PEERS[kind]:
        with setting(request) as run:
            runs.append(timed(run, request["repeats"]))
    return {"seconds": min(runs, key=median)}


def timed(run: Run, repeats: int) -> list[float]:
    """Return the seconds of each repeat after the warm-up."""
    for _ in range(WARMUP):
        run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    # Native libraries print to stdout, so the answers use a separate descriptor.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        answer = answer_to(json.load(sys.stdin))
    except Exception as error:  # a peer may raise anything; the caller decides
        answer = {"error": f"{type(error).__name__}: {error}"}
    answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
