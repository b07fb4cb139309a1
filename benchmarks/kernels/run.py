"""Measure the sparse runtime against the fastest dense ONNX Runtime graphs.

All arms run interleaved in one process with the same number of threads. Every round of a cell (batch x length) runs all
arms once in a new random order. benchmarks/results/kernels-ISA.json gets the medians, a profile by stage, the bytes and
multiply-adds of each arm, and the peak of the machine measured in the same run. `--peer openvino=PYTHON` and
`--peer deepsparse=PYTHON` add runtimes from other environments. They run in a separate process after each cell:
OpenVINO with the dense weights, DeepSparse with 95 % zeros. The file holds one run with all shapes and equal settings.
"""

import argparse
import datetime
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.kernels.arms import FP32, INT8, models, write_peers
from benchmarks.kernels.dense_encoders import BERT_BASE, MINILM_L6, EncoderShape, random_classifier
from benchmarks.kernels.modern_encoders import (
    DEBERTA_V3_BASE,
    DEBERTA_V3_SMALL,
    DEBERTA_V3_XSMALL,
    ETTIN_17M,
    ETTIN_32M,
    ETTIN_68M,
    MODERNBERT_BASE,
    random_modern_classifier,
)
from sparserve.kernels.library import find_library, read_profile
from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.evaluation.machine import describe_machine
from sparserve.models.files import write_atomically

RESULTS = Path(__file__).parent.parent / "results"
SHAPES = {
    "bert-base": BERT_BASE,
    "minilm-l6": MINILM_L6,
    "modernbert-base": MODERNBERT_BASE,
    "ettin-17m": ETTIN_17M,
    "ettin-32m": ETTIN_32M,
    "ettin-68m": ETTIN_68M,
    "deberta-v3-xsmall": DEBERTA_V3_XSMALL,
    "deberta-v3-small": DEBERTA_V3_SMALL,
    "deberta-v3-base": DEBERTA_V3_BASE,
}
DEFAULT_SHAPES = ("bert-base", "minilm-l6")
PEERS = {"openvino": "OpenVINO fp32 dense", "deepsparse": "DeepSparse 95 % fp32"}
# Below this length DeepSparse 1.8 was four times slower than dense ONNX Runtime here, for an unknown reason.
PEER_LENGTHS = {"openvino": 1, "deepsparse": 64}
PROFILED_ARMS = ("dense fp32", "90 % int8", "95 % fp32", "95 % int8", "95 % 1x4 int8")
BASE_GRID = [(1, 16), (1, 32), (1, 64), (1, 128), (1, 256), (1, 384), (8, 16), (8, 32), (8, 64), (8, 128), (32, 32)]
FULL_GRID = [(batch, length) for batch in (1, 8, 32) for length in (16, 32, 64, 128, 256, 384)]
TWO_THREADS = [(1, 32), (1, 128), (8, 32), (8, 128)]
PROFILED = [(1, 128), (8, 128)]
MINIMUM_ROUNDS, MAXIMUM_ROUNDS = 5, 101


def inputs(batch: int, length: int, vocabulary: int) -> dict[str, npt.NDArray[np.int64]]:
    """Return random token ids without padding."""
    ids = np.random.default_rng(batch * length).integers(1, vocabulary, (batch, length), dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def seconds_of(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measure_cell(
    sessions: dict[str, OnnxClassifier], feed: dict[str, npt.NDArray[np.int64]], seconds: float
) -> dict[str, list[float]]:
    """Return the seconds of every round by arm. Run as many rounds as fit in `seconds`, within limits."""
    order = np.random.default_rng(0)
    names = list(sessions)
    round_seconds = seconds_of(lambda: [session.run(feed) for session in sessions.values()])
    rounds = int(np.clip(seconds / round_seconds, MINIMUM_ROUNDS, MAXIMUM_ROUNDS))
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for index in order.permutation(len(names)):
            session = sessions[names[index]]
            times[names[index]].append(seconds_of(lambda session=session: session.run(feed)))  # type: ignore[misc]
    return times


def ask_peer(python: str, request: dict[str, Any]) -> dict[str, Any]:
    """Run `peer_worker` in the environment of a peer and return its answer, or `error` if it failed."""
    worker = Path(__file__).with_name("peer_worker.py")
    done = subprocess.run([python, str(worker)], input=json.dumps(request), capture_output=True, text=True, check=False)
    answer: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {"error": done.stderr[-300:]}
    if "error" in answer:
        print(f"  {request['format']} failed: {answer['error']}")
    return answer


def peak_rates() -> dict[str, float]:
    """Measure the peak of one thread: multiply-adds per second and bytes copied per second."""
    torch.set_num_threads(1)
    a = torch.randn(1024, 1024)
    flops = max(2**30 / seconds_of(lambda: a @ a) for _ in range(60))
    memory = np.zeros(2**27, np.uint8)
    copied = max(2 * memory.nbytes / seconds_of(memory.copy) for _ in range(5))
    return {"fp32_multiply_adds_per_second": flops, "copy_bytes_per_second": copied}


def multiply_adds(shape: EncoderShape, batch: int, length: int, sparsity: float) -> dict[str, int]:
    """Return the multiply-adds of the nonzero weights in the encoder's linear layers, and of attention.

    They count all tokens, except in the last layer: there only keys and values are computed for all tokens, everything
    else for the first one.
    """
    width, tokens = shape.hidden, batch * length
    keys_and_values, rest = 2 * width**2, 2 * width**2 + 2 * width * shape.intermediate
    linears = shape.layers * keys_and_values * tokens + rest * ((shape.layers - 1) * tokens + batch)
    queries = (shape.layers - 1) * tokens + batch
    return {"linears": round(linears * (1 - sparsity)), "attention": 2 * length * width * queries}


def profile(session: OnnxClassifier, feed: dict[str, npt.NDArray[np.int64]]) -> dict[str, float]:
    """Return the seconds by stage of one run, the median of five by total time."""
    library = find_library()
    session.run(feed)
    runs = []
    for _ in range(5):
        read_profile(library, measure=True)
        whole = seconds_of(lambda: session.run(feed))
        runs.append({**read_profile(library, measure=False), "whole": whole})
    return sorted(runs, key=lambda run: run["whole"])[2]


def measure_shape(
    shape: EncoderShape, grid: Sequence[tuple[int, int, int]], seconds: float, peers: dict[str, str]
) -> dict[str, Any]:
    """Measure all cells (batch, length, threads) of one shape."""
    with tempfile.TemporaryDirectory() as name:
        bert = shape.family == "bert"
        network = random_classifier(shape, 0) if bert else random_modern_classifier(shape, 0)
        arms = dict(models(network, shape, Path(name)))
        graphs = write_peers(network, Path(name)) if peers and bert else {}
        cells = []
        profiles: dict[str, Any] = {}
        for threads in sorted({threads for _, _, threads in grid}):
            sessions = {
                arm: OnnxClassifier(
                    model.path, pad_token_id=0, threads=threads, library=find_library().path if model.packed else None
                )
                for arm, model in arms.items()
            }
            for batch, length, _ in [cell for cell in grid if cell[2] == threads]:
                feed = inputs(batch, length, shape.vocabulary)
                if not bert:
                    del feed["token_type_ids"]
                times = measure_cell(sessions, feed, seconds)
                medians = {arm: float(np.median(values)) for arm, values in times.items()}
                for kind, python in peers.items():
                    if length < PEER_LENGTHS[kind]:
                        continue
                    request = {"format": kind, "model": str(graphs[kind]), "repeats": 7}
                    answer = ask_peer(python, {**request, "batch": batch, "length": length, "threads": threads})
                    if "seconds" in answer:
                        medians[PEERS[kind]] = float(np.median(answer["seconds"]))
                cells.append(
                    {
                        "batch": batch,
                        "length": length,
                        "threads": threads,
                        "rounds": len(times[FP32]),
                        "median_seconds": medians,
                    }
                )
                print_cell(shape.name, cells[-1])
                if bert and threads == 1 and (batch, length) in PROFILED:
                    for arm in PROFILED_ARMS:
                        profiles[f"{arm}, {batch} x {length}"] = {
                            "seconds": profile(sessions[arm], feed),
                            "multiply_adds": multiply_adds(shape, batch, length, arms[arm].sparsity),
                        }
        return {
            "cells": cells,
            "profiles": profiles,
            "files": {
                arm: {"bytes": model.path.stat().st_size, "encoder_bytes": model.encoder_bytes}
                for arm, model in arms.items()
            },
            "peak_one_thread": peak_rates(),
        }


def print_cell(name: str, cell: dict[str, Any]) -> None:
    medians = cell["median_seconds"]
    print(f"\n{name}, {cell['batch']} x {cell['length']}, {cell['threads']} threads, {cell['rounds']} rounds")
    print(f"  {'':22}{'ms':>9}{'x fp32':>9}{'x int8':>9}")
    for arm, seconds in medians.items():
        print(
            f"  {arm:22}{1000 * seconds:9.2f}{medians[FP32] / seconds:9.2f}{medians[INT8] / seconds:9.2f}", flush=True
        )


def parse_cell(text: str) -> tuple[int, int]:
    """Read a cell of the grid: "1x128" is one text of 128 tokens."""
    batch, length = text.split("x")
    return int(batch), int(length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(DEFAULT_SHAPES))
    parser.add_argument(
        "--cells", nargs="+", type=parse_cell, metavar="BATCHxLENGTH", help="these cells on one thread only"
    )
    parser.add_argument("--seconds", type=float, default=10, help="time per cell; at least five rounds run")
    parser.add_argument("--full", action="store_true", help="batches 1, 8, 32 x lengths 16 to 384 (over an hour)")
    parser.add_argument("--peer", action="append", default=[], metavar="KIND=PYTHON")
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    peers = dict(peer.split("=", 1) for peer in arguments.peer)
    library = find_library()
    output: Path = arguments.output or RESULTS / f"kernels-{library.isa}.json"
    grid = FULL_GRID if arguments.full else BASE_GRID
    cells = [(*cell, 1) for cell in arguments.cells or grid]
    if not arguments.cells:
        cells += [(*cell, 2) for cell in (grid if arguments.full else TWO_THREADS)]
    result: dict[str, Any] = {
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine().model_dump(mode="json"),
        "isa": library.isa,
        "settings": {"seconds_a_cell": arguments.seconds, "full": arguments.full},
        "peers": {kind: ask_peer(python, {"format": kind}).get("version") for kind, python in peers.items()},
        "shapes": {},
    }
    for name in arguments.shapes:
        result["shapes"][name] = measure_shape(SHAPES[name], cells, arguments.seconds, peers)
        write_atomically(output, json.dumps(result, indent=1) + "\n")
    print(f"\nwritten to {output}")


if __name__ == "__main__":
    main()
