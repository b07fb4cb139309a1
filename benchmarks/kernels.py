"""Measure the sparse runtime against ONNX Runtime's best dense graphs: interleaved arms, one process, equal threads.

Every round of a cell (batch x length) runs all arms once in a new random order; medians and ratios of medians are
written to benchmarks/results/kernels.json, with a profile by stage, the bytes and multiply-adds of each arm, and the
machine's peak as measured in the same run. `--peer openvino=PYTHON` and `--peer deepsparse=PYTHON` add runtimes that
live in environments of their own; those run in their own process, right after each cell: OpenVINO with the dense
weights, DeepSparse with 95 % zeros.
"""

import argparse
import copy
import datetime
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper

from benchmarks.dense_encoders import (
    BERT_BASE,
    MINILM_L6,
    EncoderShape,
    apply_sparsity,
    export_fused,
    export_plain,
    quantize_fused,
    random_classifier,
)
from kernels.library import find_library, read_profile
from kernels.packing import PackOptions
from models.export import export_onnx
from models.files import write_atomically
from models.machine import describe_machine
from models.quantization import quantize_embeddings
from models.runtime import OnnxClassifier
from models.sparse_graph import pack_graph

RESULTS = Path(__file__).parent / "results" / "kernels.json"
SHAPES = {"bert-base": BERT_BASE, "minilm-l6": MINILM_L6}
FP32, INT8 = "ORT fp32 dense", "ORT int8 dense"
PEERS = {"openvino": "OpenVINO fp32 dense", "deepsparse": "DeepSparse 95 % fp32"}
SPARSITIES = (0.8, 0.9, 0.95, 0.975)
BASE_GRID = [(1, 16), (1, 32), (1, 64), (1, 128), (1, 256), (1, 384), (8, 16), (8, 32), (8, 64), (8, 128), (32, 32)]
FULL_GRID = [(batch, length) for batch in (1, 8, 32) for length in (16, 32, 64, 128, 256, 384)]
TWO_THREADS = [(1, 32), (1, 128), (8, 32), (8, 128)]
PROFILED = [(1, 128), (8, 128)]
MINIMUM_ROUNDS, MAXIMUM_ROUNDS = 5, 101


@dataclass(frozen=True)
class Model:
    """A file to run, and what it holds."""

    path: Path
    packed: bool
    sparsity: float
    encoder_bytes: int


def masked(weight: npt.NDArray[np.float32], sparsity: float, block: int, seed: int) -> npt.NDArray[np.float32]:
    """A linear's weight [in, out] with this fraction of zeros, in blocks of `block` neighbouring inputs."""
    groups = weight.T.reshape(-1, block)
    zeros = np.random.default_rng(seed).permutation(len(groups))[: round(sparsity * len(groups))]
    groups = groups.copy()
    groups[zeros] = 0
    return np.ascontiguousarray(groups.reshape(weight.T.shape).T)


def packed_model(source: Path, target: Path, head_size: int, *, sparsity: float, values: Any, block: int = 1) -> Model:
    """The graph of `source` with zeros in its encoder, packed; int8 embeddings with int8 weights."""
    graph = onnx.load(str(source))
    for seed, tensor in enumerate(graph.graph.initializer):
        if sparsity and "encoder.layer" in tensor.name and len(tensor.dims) == 2:
            weight = masked(numpy_helper.to_array(tensor), sparsity, block, seed)
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    packed = pack_graph(graph, head_size=head_size, options=PackOptions(values=values))
    if values == "int8":
        quantize_embeddings(graph)
    onnx.save(graph, str(target))
    return Model(target, True, sparsity, packed.encoder_bytes)


def models(shape: EncoderShape, folder: Path, *, with_peers: bool) -> Iterator[tuple[str, Model]]:
    """All arms of a shape, written to `folder`."""
    _, network = random_classifier(shape, 0)
    dense = sum(p.numel() * 4 for name, p in network.named_parameters() if "encoder.layer" in name)
    export_fused(network, folder / "fused.onnx")
    yield FP32, Model(folder / "fused.onnx", False, 0, dense)
    quantize_fused(folder / "fused.onnx", folder / "fused-int8.onnx")
    yield INT8, Model(folder / "fused-int8.onnx", False, 0, dense // 4)
    if with_peers:
        export_plain(network, folder / "openvino.onnx")
        sparse = copy.deepcopy(network)
        apply_sparsity(sparse, 0.95, 0)
        export_plain(sparse, folder / "deepsparse.onnx")
    source = folder / "plain-dynamo.onnx"
    export_onnx(
        network,
        source,
        input_names=("input_ids", "attention_mask", "token_type_ids"),
        max_length=512,
        vocabulary=shape.vocabulary,
        pad_token_id=0,
        opset=20,
        tolerance=1e-3,
    )
    head_size = shape.hidden // shape.heads
    for values in ("fp32", "int8"):
        yield f"dense {values}", packed_model(source, folder / f"{values}.onnx", head_size, sparsity=0, values=values)
    for sparsity in SPARSITIES:
        for values in ("fp32", "int8"):
            path = folder / f"{sparsity}-{values}.onnx"
            name = f"{100 * sparsity:g} % {values}"
            yield name, packed_model(source, path, head_size, sparsity=sparsity, values=values)
    for sparsity in (0.9, 0.95):
        path = folder / f"{sparsity}-blocks.onnx"
        name = f"{100 * sparsity:g} % 1x4 int8"
        yield name, packed_model(source, path, head_size, sparsity=sparsity, values="int8", block=4)
    _, squeezed = random_classifier(shape, 0, head_fraction=0.5, ffn_fraction=0.25)
    export_fused(squeezed, folder / "squeezed.onnx")
    quantize_fused(folder / "squeezed.onnx", folder / "squeezed-int8.onnx")
    kept = sum(p.numel() for name, p in squeezed.named_parameters() if "encoder.layer" in name)
    yield "ORT int8 squeezed", Model(folder / "squeezed-int8.onnx", False, 0, kept)


def inputs(batch: int, length: int, vocabulary: int) -> dict[str, npt.NDArray[np.int64]]:
    """Random token ids without padding."""
    ids = np.random.default_rng(batch * length).integers(1, vocabulary, (batch, length), dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def timed(session: OnnxClassifier, feed: dict[str, npt.NDArray[np.int64]]) -> float:
    begin = time.perf_counter()
    session.run(feed)
    return time.perf_counter() - begin


def measure_cell(
    sessions: dict[str, OnnxClassifier], feed: dict[str, npt.NDArray[np.int64]], seconds: float
) -> dict[str, list[float]]:
    """Seconds of every round by arm; as many rounds as fit, within limits."""
    order = np.random.default_rng(0)
    names = list(sessions)
    round_seconds = sum(timed(sessions[name], feed) for name in names)
    rounds = int(np.clip(seconds / round_seconds, MINIMUM_ROUNDS, MAXIMUM_ROUNDS))
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for index in order.permutation(len(names)):
            times[names[index]].append(timed(sessions[names[index]], feed))
    return times


def peer_seconds(python: str, kind: str, model: Path, batch: int, length: int, threads: int) -> float | None:
    """Median seconds of a peer, in its own environment; None where it fails."""
    request = {"model": str(model), "batch": batch, "length": length, "threads": threads, "repeats": 7, "format": kind}
    worker = Path(__file__).with_name("peer_worker.py")
    done = subprocess.run(
        [python, str(worker)], input=json.dumps(request) + "\n", capture_output=True, text=True, check=False
    )
    answer = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {"error": done.stderr[-300:]}
    if "error" in answer:
        print(f"  {kind} failed: {answer['error']}")
        return None
    return float(np.median(answer["milliseconds"])) / 1000


def peak_rates() -> dict[str, float]:
    """What one thread of this machine does at best, now: multiply-adds a second and bytes copied a second."""
    torch.set_num_threads(1)
    a = torch.randn(1024, 1024)
    flops = max(2**30 / _seconds(lambda: a @ a) for _ in range(60))
    memory = np.zeros(2**27, np.uint8)
    copied = max(2 * memory.nbytes / _seconds(memory.copy) for _ in range(5))
    return {"fp32_multiply_adds_per_second": flops, "copy_bytes_per_second": copied}


def _seconds(call: Any) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def multiply_adds(shape: EncoderShape, batch: int, length: int, sparsity: float) -> dict[str, int]:
    """Of the encoder's linears that are not zero, and of attention."""
    linear = shape.layers * (4 * shape.hidden**2 + 2 * shape.hidden * shape.intermediate)
    attention = shape.layers * 2 * length * shape.hidden
    return {"linears": round(batch * length * linear * (1 - sparsity)), "attention": batch * length * attention}


def profile(session: OnnxClassifier, feed: dict[str, npt.NDArray[np.int64]]) -> dict[str, float]:
    """Seconds by stage of one run: the median run of five by its sum."""
    library = find_library()
    session.run(feed)
    runs = []
    for _ in range(5):
        read_profile(library, measure=True)
        begin = time.perf_counter()
        session.run(feed)
        whole = time.perf_counter() - begin
        runs.append({**read_profile(library, measure=False), "whole": whole})
    return sorted(runs, key=lambda run: run["whole"])[2]


def measure_shape(
    shape: EncoderShape, grid: Sequence[tuple[int, int, int]], seconds: float, peers: dict[str, str]
) -> dict[str, Any]:
    """All cells (batch, length, threads) of one shape."""
    with tempfile.TemporaryDirectory() as name:
        arms = dict(models(shape, Path(name), with_peers=bool(peers)))
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
                times = measure_cell(sessions, feed, seconds)
                medians = {arm: float(np.median(values)) for arm, values in times.items()}
                for kind, python in peers.items():
                    path = Path(name) / f"{kind}.onnx"
                    if (found := peer_seconds(python, kind, path, batch, length, threads)) is not None:
                        medians[PEERS[kind]] = found
                cells.append(
                    {
                        "batch": batch,
                        "length": length,
                        "threads": threads,
                        "rounds": len(times[FP32]),
                        "median_seconds": medians,
                        "fastest_seconds": {arm: min(values) for arm, values in times.items()},
                    }
                )
                print_cell(shape.name, cells[-1])
                if threads == 1 and (batch, length) in PROFILED:
                    for arm in ("dense fp32", "90 % int8", "95 % fp32", "95 % int8", "95 % 1x4 int8"):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--seconds", type=float, default=10, help="for a cell; at least five rounds are run")
    parser.add_argument("--full", action="store_true", help="batches 1, 8, 32 x lengths 16 to 384 (over an hour)")
    parser.add_argument("--peer", action="append", default=[], metavar="KIND=PYTHON")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    peers = dict(peer.split("=", 1) for peer in arguments.peer)
    library = find_library()
    grid = FULL_GRID if arguments.full else BASE_GRID
    cells = [(*cell, 1) for cell in grid] + [(*cell, 2) for cell in (grid if arguments.full else TWO_THREADS)]
    result: dict[str, Any] = {
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine().model_dump(mode="json"),
        "isa": library.isa,
        "shapes": {},
    }
    if arguments.output.exists():  # other shapes that were measured on this machine stay
        before = json.loads(arguments.output.read_bytes())
        if (before["machine"], before["isa"]) == (result["machine"], result["isa"]):
            result["shapes"] = before["shapes"]
    for name in arguments.shapes:
        result["shapes"][name] = measure_shape(SHAPES[name], cells, arguments.seconds, peers)
        write_atomically(arguments.output, json.dumps(result, indent=1) + "\n")
    print(f"\nwritten to {arguments.output}")


if __name__ == "__main__":
    main()
