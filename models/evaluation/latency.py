"""Latency of graphs on a small grid, with all arms interleaved in one process, and their resident memory.

`python -m sparserve.models.evaluation.latency MODEL ...` measures the memory of one graph in a separate process.
"""

import argparse
import datetime
import gc
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import psutil

from sparserve.models.bundle.inference import OnnxClassifier, sparse_library
from sparserve.models.bundle.manifest import LatencyPoint, Measurement, ProblemType, SparseMeasurement
from sparserve.models.bundle.variants import DENSE, Arm, Variant
from sparserve.models.cpus import available_cpus
from sparserve.models.errors import BundleError
from sparserve.models.evaluation.machine import describe_machine
from sparserve.models.types import Progress

FP32_BASELINE: Final = Arm(Variant(DENSE))
INT8_BASELINE: Final = Arm(Variant(DENSE, "int8"))
MIN_ROUNDS: Final = 7
MAX_ROUNDS: Final = 200
WARMUP_ROUNDS: Final = 2
MEMORY_TIMEOUT_SECONDS: Final = 600.0

Inputs = dict[str, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class RunnableGraph:
    """A graph to measure, from token ids [batch, length] to logits [batch, labels], and its session's settings."""

    model_path: Path
    pad_token_id: int = 0
    library: Path | None = None  # of the sparse runtime, for a graph that needs it

    def load(self, threads: int) -> OnnxClassifier:
        """Return a session of the graph.

        Raises:
            BundleError: ONNX Runtime cannot load the graph.
        """
        return OnnxClassifier(self.model_path, pad_token_id=self.pad_token_id, threads=threads, library=self.library)


def measure(
    arms: Mapping[Arm, RunnableGraph],
    *,
    vocabulary: int,
    max_length: int = 512,
    batches: Sequence[int] = (1, 8),
    lengths: Sequence[int] = (16, 64, 128),
    budget_seconds: float = 60.0,
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[Arm, Measurement]:
    """Measure every arm on every cell of the grid batches x lengths.

    Lengths are tokens, at most `max_length`. Each round of a cell runs all arms once, in a new random order, so that
    other load of the machine affects all arms alike. The whole grid takes about `budget_seconds`: each cell gets an
    equal share of the remaining time, but at least `MIN_ROUNDS` and at most `MAX_ROUNDS` rounds. The dense arms in
    stock ONNX Runtime are the baselines of each latency point. Token ids are random and below `vocabulary`; every arm
    must accept all of them. Each arm runs on `threads` threads, by default one per available CPU. `progress` is called
    with the number of finished steps, the number of steps and a description of the next one.

    Raises:
        ValueError: there is no dense arm, or the grid is empty.
        BundleError: ONNX Runtime cannot run a graph, or a graph has no row for a token of the vocabulary.
    """
    if FP32_BASELINE not in arms:
        given = ", ".join(map(str, arms)) or "none"
        raise ValueError(f"the baseline {str(FP32_BASELINE)!r} is missing; given: {given}")
    cells = sorted({(batch, min(length, max_length)) for batch in batches for length in lengths})
    if not cells:
        raise ValueError("the grid is empty; give at least one batch size and one length")
    threads = threads or available_cpus()
    report = progress or (lambda done, total, note: None)
    steps = len(arms) + len(cells)

    resident = {}
    for done, (arm, graph) in enumerate(arms.items()):
        report(done, steps, f"memory of {arm}")
        longest = max(length for _, length in cells)
        resident[arm] = resident_bytes(graph, vocabulary=vocabulary, length=longest, threads=threads)

    loaded = {arm: graph.load(threads) for arm, graph in arms.items()}
    generator = np.random.default_rng(seed)
    times: dict[tuple[int, int], dict[Arm, npt.NDArray[np.float64]]] = {}
    end = time.perf_counter() + budget_seconds
    for done, (batch, length) in enumerate(cells):
        report(len(arms) + done, steps, f"latency at batch {batch}, {length} tokens")
        share = (end - time.perf_counter()) / (len(cells) - done)
        ids = generator.integers(0, vocabulary, size=(batch, length), dtype=np.int64)
        times[batch, length] = _cell(loaded, ids, vocabulary, share, generator)
    report(steps, steps, "measured")

    measured_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    repeats = min(len(cell[FP32_BASELINE]) for cell in times.values())
    return {
        arm: Measurement(
            measured_at=measured_at,
            machine=describe_machine(),
            threads=threads,
            repeats=repeats,
            resident_bytes=resident[arm],
            latency=tuple(_point(arm, batch, length, times[batch, length]) for batch, length in cells),
        )
        for arm in arms
    }


def resident_bytes(graph: RunnableGraph, *, vocabulary: int, length: int, threads: int) -> int:
    """Return the bytes of resident memory that a new process needs to load a graph and run `length` tokens.

    The memory of Python, numpy and ONNX Runtime themselves is not included.

    Raises:
        BundleError: ONNX Runtime cannot run the graph, or the graph has no row for a token of the vocabulary.
    """
    numbers = (graph.pad_token_id, vocabulary, length, threads)
    command = [
        sys.executable,
        "-m",
        "sparserve.models.evaluation.latency",
        str(graph.model_path.resolve()),
        *map(str, numbers),
    ]
    if graph.library is not None:
        command += ["--library", str(graph.library)]
    # The package may be a working copy that is not installed, so the child gets this process's search path.
    path = os.pathsep.join(filter(None, sys.path))
    result = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=MEMORY_TIMEOUT_SECONDS,
        check=False,
    )
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
        raise BundleError(
            f"The memory of {graph.model_path} cannot be measured with token ids below {vocabulary}: {reason}"
        )
    return int(json.loads(result.stdout)["resident_bytes"])


def _cell(
    loaded: Mapping[Arm, OnnxClassifier],
    ids: npt.NDArray[np.int64],
    vocabulary: int,
    seconds: float,
    generator: np.random.Generator,
) -> dict[Arm, npt.NDArray[np.float64]]:
    """Return the seconds of every round, [rounds], of each arm for one cell with token ids [batch, length]."""
    arms = list(loaded)
    inputs = {arm: _inputs(classifier, ids, vocabulary) for arm, classifier in loaded.items()}
    round_seconds = 0.0
    for _ in range(WARMUP_ROUNDS):
        round_seconds = sum(_time(loaded[arm], inputs[arm]) for arm in arms)
    affordable = int(seconds / round_seconds) - WARMUP_ROUNDS if round_seconds > 0 else MAX_ROUNDS
    rounds = min(max(affordable, MIN_ROUNDS), MAX_ROUNDS)
    times = {arm: np.zeros(rounds) for arm in arms}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for index in range(rounds):
            for place in generator.permutation(len(arms)):
                arm = arms[place]
                times[arm][index] = _time(loaded[arm], inputs[arm])
    finally:
        if collecting:
            gc.enable()
    return times


def _inputs(classifier: OnnxClassifier, ids: npt.NDArray[np.int64], vocabulary: int) -> Inputs:
    """Return the graph's inputs for token ids [batch, length], with padding ids replaced."""
    # RoBERTa computes positions from the padding id.
    ids = np.where(ids == classifier.pad_token_id, (classifier.pad_token_id + 1) % vocabulary, ids)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {name: value for name, value in inputs.items() if name in classifier.input_names}


def _time(classifier: OnnxClassifier, inputs: Inputs) -> float:
    start = time.perf_counter()
    classifier.run(inputs)
    return time.perf_counter() - start


def _point(arm: Arm, batch: int, length: int, times: Mapping[Arm, npt.NDArray[np.float64]]) -> LatencyPoint:
    p50, p95 = (float(np.quantile(times[arm], q)) for q in (0.5, 0.95))
    return LatencyPoint(
        batch=batch,
        length=length,
        p50_seconds=p50,
        p95_seconds=p95,
        items_per_second=batch / p50,
        dense_p50_seconds=float(np.median(times[FP32_BASELINE])),
        dense_int8_p50_seconds=float(np.median(times[INT8_BASELINE])) if INT8_BASELINE in times else None,
    )


def with_sparse(
    stock: Measurement,
    sparse: Measurement,
    *,
    logits: npt.NDArray[np.float32],
    sparse_logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    problem_type: ProblemType,
) -> Measurement:
    """Return a bundle's measurement completed with that of its model.sparse.onnx from the same session.

    `logits` and `sparse_logits` are [rows, labels] of the same test rows; `labels` are the true labels of these rows.
    """
    # Imported here so that the child process, which measures memory, does not import scipy.
    from sparserve.models.evaluation.one_score import same_order
    from sparserve.models.evaluation.scores import decisions

    ratios = [
        stock_point.p50_seconds / sparse_point.p50_seconds
        for sparse_point, stock_point in zip(sparse.latency, stock.latency, strict=True)
    ]
    accuracy: float | None = None
    if logits.shape[1] == 1:
        same = same_order(sparse_logits, logits)
    else:
        truth, predicted = decisions(sparse_logits, labels, logits.shape[1], problem_type)
        _, stock_predicted = decisions(logits, labels, logits.shape[1], problem_type)
        accuracy = float((predicted == truth).all(axis=1).mean())
        same = float((predicted == stock_predicted).all(axis=1).mean())
    record = SparseMeasurement(
        isa=sparse_library().isa,
        rows=len(labels),
        accuracy=accuracy,
        same_labels=same,
        largest_difference=float(np.abs(logits - sparse_logits).max()),
        resident_bytes=sparse.resident_bytes,
        latency=sparse.latency,
        faster_at=tuple(
            (point.batch, point.length) for point, ratio in zip(sparse.latency, ratios, strict=True) if ratio > 1
        ),
        preferred=math.fsum(map(math.log, ratios)) > 0,
    )
    return stock.model_copy(update={"sparse": record})


def _print_resident_bytes() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sparserve.models.evaluation.latency", description="Memory of one loaded graph."
    )
    parser.add_argument("model_path", type=Path)
    for name in ("pad_token_id", "vocabulary", "length", "threads"):
        parser.add_argument(name, type=int)
    parser.add_argument("--library", type=Path)
    arguments = parser.parse_args()
    ids = np.random.default_rng(0).integers(0, arguments.vocabulary, size=(1, arguments.length), dtype=np.int64)
    ids[0, -1] = arguments.vocabulary - 1  # so that a table with fewer rows always fails here
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    graph = RunnableGraph(arguments.model_path, arguments.pad_token_id, arguments.library)
    classifier = graph.load(arguments.threads)
    classifier.run(_inputs(classifier, ids, arguments.vocabulary))
    print(json.dumps({"resident_bytes": max(process.memory_info().rss - before, 0)}))


if __name__ == "__main__":
    _print_resident_bytes()
