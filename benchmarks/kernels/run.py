"""Measure the sparse runtime against the fastest dense ONNX Runtime graphs.

All arms run interleaved in one process with the same number of threads. Every round of a cell (batch x length) runs all
arms once in a new random order. benchmarks/results/kernels-ISA.json gets the medians, a profile by stage, the bytes and
multiply-adds of each arm, and the peak of the machine measured in the same run. It is written after every cell: the
same command resumes an interrupted run, and a long run may be made in pieces of some shapes or cells.

`--store STORE --task TASK` measures the bundles of a task beside the random weights, each with the accuracy that the
job measured with the same file. `--peer openvino=PYTHON`, `--peer openvino-int8=PYTHON` and `--peer deepsparse=PYTHON`
add runtimes from other environments. They run in a separate process after each cell: OpenVINO with the dense weights,
in fp32 or quantised by NNCF with the faster of its two presets, DeepSparse with 95 % zeros.
"""

import argparse
import hashlib
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from benchmarks.kernels.arms import FP32, INT8, Model, models, trained_models, write_peers
from benchmarks.kernels.dense_encoders import BERT_BASE, MINILM_L6, EncoderShape, random_classifier
from benchmarks.kernels.fused_graph import INPUT_NAMES
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
from benchmarks.kernels.modern_encoders import INPUT_NAMES as MODERN_INPUT_NAMES
from benchmarks.kernels.peaks import peak_rates, seconds_of
from benchmarks.kernels.record import Cell, Record
from sparserve.kernels.library import Library, find_library, read_profile
from sparserve.models.bundle.store import Store
from sparserve.models.bundle.variants import DENSE
from sparserve.models.evaluation.machine import describe_machine

RESULTS: Final = Path(__file__).parent.parent / "results"
SHAPES: Final = {
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
DEFAULT_SHAPES: Final = ("bert-base", "minilm-l6")
PEERS: Final = {
    "openvino": "OpenVINO fp32 dense",
    "openvino-int8": "OpenVINO int8 dense (NNCF)",
    "deepsparse": "DeepSparse 95 % fp32",
}
# Below this length DeepSparse 1.8 was four times slower than dense ONNX Runtime here, for an unknown reason.
PEER_LENGTHS: Final = {"openvino": 1, "openvino-int8": 1, "deepsparse": 64}
PROFILED_ARMS: Final = (
    "dense fp32",
    "90 % int8",
    "95 % fp32",
    "95 % int8",
    "95 % int8, int8 attention",
    "95 % 1x4 int8",
)
ONE_TEXT: Final = [(1, length) for length in (16, 32, 64, 128, 256, 384, 512)]
BASE_GRID: Final = [*ONE_TEXT, (8, 16), (8, 32), (8, 64), (8, 128), (32, 32)]
FULL_GRID: Final = [
    *ONE_TEXT,
    *((batch, length) for batch in (8, 32) for length in (16, 32, 64, 128, 256, 384)),
    (8, 512),
]
MODERN_GRID: Final = [(1, 16), (1, 128), (1, 512), (8, 128)]
TWO_THREADS: Final = [(1, 32), (1, 128), (8, 32), (8, 128)]
PROFILED: Final = [(1, 128), (8, 128)]
MINIMUM_ROUNDS, MAXIMUM_ROUNDS = 5, 101

Feed = dict[str, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Subject:
    """Arms to measure: a shape with random weights, or the bundles of a task.

    `names` are the inputs of the graphs. `shape` is None for bundles, `graphs` are those for the peers.
    """

    name: str
    arms: Mapping[str, Model]
    vocabulary: int
    names: Sequence[str]
    shape: EncoderShape | None = None
    graphs: Mapping[str, Path] | None = None


def inputs(batch: int, length: int, vocabulary: int) -> Feed:
    """Return random token ids without padding."""
    ids = np.random.default_rng(batch * length).integers(1, vocabulary, (batch, length), dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def run_once(session: onnxruntime.InferenceSession, feed: Feed) -> npt.NDArray[np.float32]:
    """Return the logits [batch, labels] of a graph, which gets those inputs that it has."""
    (logits,) = session.run(["logits"], {one.name: feed[one.name] for one in session.get_inputs()})
    return np.asarray(logits)


def measure_cell(
    sessions: Mapping[str, onnxruntime.InferenceSession], feed: Feed, seconds: float
) -> dict[str, list[float]]:
    """Return the seconds of every round by arm. Run as many rounds as fit in `seconds`, within limits."""
    order = np.random.default_rng(0)
    names = list(sessions)
    # The first run of a shape is slower; the second one tells the time of a round.
    _, round_seconds = (
        seconds_of(lambda: [run_once(session, feed) for session in sessions.values()]) for _ in range(2)
    )
    rounds = int(np.clip(seconds / round_seconds, MINIMUM_ROUNDS, MAXIMUM_ROUNDS))
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for index in order.permutation(len(names)):
            run = partial(run_once, sessions[names[index]], feed)
            times[names[index]].append(seconds_of(run))
    return times


def ask_peer(python: str, request: dict[str, Any]) -> dict[str, Any]:
    """Run `peer_worker` in the environment of a peer and return its answer, or `error` if it failed."""
    worker = Path(__file__).with_name("peer_worker.py")
    done = subprocess.run([python, str(worker)], input=json.dumps(request), capture_output=True, text=True, check=False)
    answer: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {"error": done.stderr[-300:]}
    if "error" in answer:
        print(f"  {request['format']} failed: {answer['error']}")
    return answer


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


def profile(session: onnxruntime.InferenceSession, feed: Feed) -> dict[str, float]:
    """Return the seconds by stage of one run, the median of five by total time."""
    library = find_library()
    run_once(session, feed)
    runs = []
    for _ in range(5):
        read_profile(library, measure=True)
        whole = seconds_of(lambda: run_once(session, feed))
        runs.append({**read_profile(library, measure=False), "whole": whole})
    return sorted(runs, key=lambda run: run["whole"])[2]


def random_subject(name: str, folder: Path, peers: Mapping[str, str]) -> Subject:
    """Write the graphs of a shape with random weights to `folder`."""
    shape = SHAPES[name]
    if shape.family == "bert":
        network = random_classifier(shape, 0)
        arms = dict(models(network, shape, folder))
        graphs = write_peers(network, folder) if peers else {}
        return Subject(name, arms, shape.vocabulary, INPUT_NAMES, shape, graphs)
    arms = dict(models(random_modern_classifier(shape, 0), shape, folder))
    graphs = {kind: arms[FP32].path for kind in ("openvino", "openvino-int8")}
    return Subject(name, arms, shape.vocabulary, MODERN_INPUT_NAMES, shape, graphs)


def trained_subject(store: Path, task: str, folder: Path) -> Subject:
    """Write the graphs that the bundles of a task do not have to `folder`."""
    bundle = Store(store).open(task, DENSE)
    vocabulary = Tokenizer.from_file(str(bundle.tokenizer_path)).get_vocab_size()
    return Subject(f"{task} (trained)", dict(trained_models(store, task, folder)), vocabulary, INPUT_NAMES)


def measure(
    record: Record, subject: Subject, cells: Sequence[Cell], seconds: float, peers: Mapping[str, str], library: Library
) -> None:
    """Measure cells of a subject and record each."""
    files = {
        arm: {
            "bytes": model.path.stat().st_size,
            "encoder_bytes": model.encoder_bytes,
            **({} if model.accuracy is None else {"accuracy": model.accuracy}),
        }
        for arm, model in subject.arms.items()
    }
    peak = peak_rates(library.isa)
    for threads in sorted({threads for _, _, threads in cells}):
        sessions = {arm: model.session(threads, library.path) for arm, model in subject.arms.items()}
        for batch, length, _ in [cell for cell in cells if cell[2] == threads]:
            feed = inputs(batch, length, subject.vocabulary)
            times = measure_cell(sessions, feed, seconds)
            medians = {arm: float(np.median(values)) for arm, values in times.items()}
            medians.update(peer_medians(subject, peers, batch, length, threads))
            cell = {"batch": batch, "length": length, "threads": threads}
            cell |= {"rounds": len(times[FP32]), "median_seconds": medians}  # type: ignore[dict-item]
            print_cell(subject.name, cell)
            profiles = {}
            if subject.shape and subject.shape.family == "bert" and threads == 1 and (batch, length) in PROFILED:
                for arm in PROFILED_ARMS:
                    profiles[f"{arm}, {batch} x {length}"] = {
                        "seconds": profile(sessions[arm], feed),
                        "multiply_adds": multiply_adds(subject.shape, batch, length, subject.arms[arm].sparsity),
                    }
            record.add(subject.name, cell, profiles=profiles, files=files, peak_one_thread=peak)


def peer_medians(
    subject: Subject, peers: Mapping[str, str], batch: int, length: int, threads: int
) -> Iterator[tuple[str, float]]:
    """Yield the median seconds of each peer that runs the subject."""
    for kind, python in peers.items():
        graph = (subject.graphs or {}).get(kind)
        if graph is None or length < PEER_LENGTHS[kind]:
            continue
        request = {"format": kind, "model": str(graph), "inputs": list(subject.names), "repeats": 7}
        request |= {"vocabulary": subject.vocabulary, "batch": batch, "length": length, "threads": threads}
        answer = ask_peer(python, request)
        if "seconds" in answer:
            yield PEERS[kind], float(np.median(answer["seconds"]))


def print_cell(name: str, cell: dict[str, Any]) -> None:
    medians = cell["median_seconds"]
    print(f"\n{name}, {cell['batch']} x {cell['length']}, {cell['threads']} threads, {cell['rounds']} rounds")
    print(f"  {'':26}{'ms':>9}{'x fp32':>9}{'x int8':>9}")
    for arm, seconds in medians.items():
        print(
            f"  {arm:26}{1000 * seconds:9.2f}{medians[FP32] / seconds:9.2f}{medians[INT8] / seconds:9.2f}", flush=True
        )


def parse_cell(text: str) -> tuple[int, int]:
    """Read a cell of the grid: "1x128" is one text of 128 tokens."""
    batch, length = text.split("x")
    return int(batch), int(length)


def cells_of(name: str, given: Sequence[tuple[int, int]] | None, *, full: bool) -> list[Cell]:
    """Return the cells (batch, length, threads) of a shape or of trained bundles."""
    if given:
        return [(*cell, 1) for cell in given]
    if name in SHAPES and SHAPES[name].family != "bert":
        return [(*cell, 1) for cell in MODERN_GRID]
    grid = FULL_GRID if full else BASE_GRID
    return [(*cell, 1) for cell in grid] + [(*cell, 2) for cell in (grid if full else TWO_THREADS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(DEFAULT_SHAPES))
    parser.add_argument(
        "--cells", nargs="+", type=parse_cell, metavar="BATCHxLENGTH", help="these cells on one thread only"
    )
    parser.add_argument("--seconds", type=float, default=10, help="time per cell; at least five rounds run")
    parser.add_argument("--full", action="store_true", help="batches 1, 8, 32 x lengths 16 to 384 (over an hour)")
    parser.add_argument("--store", type=Path, help="measure bundles of this store too")
    parser.add_argument("--task", help="task of the store")
    parser.add_argument("--peer", action="append", default=[], metavar="KIND=PYTHON")
    parser.add_argument("--noisy", action="store_true", help="other programs run: the results say so")
    parser.add_argument("--replace", action="store_true", help="replace results of other conditions")
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    if (arguments.store is None) != (arguments.task is None):
        parser.error("--store and --task need one another")
    peers = dict(peer.split("=", 1) for peer in arguments.peer)
    if unknown := peers.keys() - PEERS.keys():
        parser.error(f"unknown peer {', '.join(sorted(unknown))}; peers: {', '.join(PEERS)}")
    library = find_library()
    conditions = {
        "machine": describe_machine().model_dump(mode="json"),
        "isa": library.isa,
        "library": hashlib.sha256(library.path.read_bytes()).hexdigest()[:16],
        "seconds_a_cell": arguments.seconds,
        "noisy": arguments.noisy,
        "peers": {kind: ask_peer(python, {"format": kind}).get("version") for kind, python in peers.items()},
    }
    output: Path = arguments.output or RESULTS / f"kernels-{library.isa}.json"
    record = Record(output, conditions, replace=arguments.replace)
    trained = [f"{arguments.task} (trained)"] if arguments.task else []
    for name in [*arguments.shapes, *trained]:
        wanted = cells_of(name, arguments.cells, full=arguments.full)
        if name in trained:
            longest = Store(arguments.store).open(arguments.task, DENSE, verify=False).manifest.max_length
            wanted = [cell for cell in wanted if cell[1] <= longest]
        missing = record.begin(name, wanted)
        if not missing:
            print(f"{name}: {output} has all {len(wanted)} cells")
            continue
        with tempfile.TemporaryDirectory() as folder:
            if name in trained:
                subject = trained_subject(arguments.store, arguments.task, Path(folder))
            else:
                subject = random_subject(name, Path(folder), peers)
            measure(record, subject, missing, arguments.seconds, peers, library)
    print(f"\nwritten to {output}")


if __name__ == "__main__":
    main()
