"""Time one peer runtime in its environment, which has the peer and numpy but not this project.

Reads a JSON object from stdin, for example `{"format": "openvino", "model": "plain.onnx", "batch": 1, "length": 128,
"threads": 1, "repeats": 7}`, and writes one to stdout: `{"seconds": [...]}` with one number per repeat after the
warm-up, `{"version": "..."}` if there is no model, or `{"error": "..."}`.
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
from typing import Any

import numpy as np

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
WARMUP = 3

Run = Callable[[], object]


@contextmanager
def openvino_run(model: Path, batch: int, length: int, threads: int) -> Iterator[Run]:
    import openvino  # type: ignore[import-not-found]

    core = openvino.Core()
    network = core.read_model(model)
    # A fixed shape is the fastest setting of this peer.
    network.reshape({name: [batch, length] for name in INPUT_NAMES})
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",  # the default is bfloat16 where available; the other arms use fp32
    }
    request = core.compile_model(network, "CPU", options).create_infer_request()
    inputs = {name: np.ones((batch, length), dtype=np.int64) for name in INPUT_NAMES}
    yield lambda: request.infer(inputs, share_inputs=True, share_outputs=True)


@contextmanager
def deepsparse_run(model: Path, batch: int, length: int, threads: int) -> Iterator[Run]:
    import deepsparse  # type: ignore[import-not-found]
    import onnx

    # DeepSparse writes given input shapes into its input file.
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(model, Path(folder) / "model.onnx"))
        order = [value.name for value in onnx.load(str(copy), load_external_data=False).graph.input]
        shapes = [[batch, length] for _ in order]
        engine = deepsparse.Engine(str(copy), batch_size=batch, num_cores=threads, input_shapes=shapes)
        inputs = [np.ones((batch, length), dtype=np.int64) for _ in order]
        yield lambda: engine.run(inputs, val_inp=False)


PEERS = {"openvino": openvino_run, "deepsparse": deepsparse_run}


def answer_to(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the wall seconds of each repeat, or the version of the peer if the request has no model."""
    if "model" not in request:
        return {"version": version(request["format"])}
    peer, times = PEERS[request["format"]], []
    with peer(Path(request["model"]), request["batch"], request["length"], request["threads"]) as run:
        for _ in range(WARMUP):
            run()
        for _ in range(request["repeats"]):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return {"seconds": times}


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
