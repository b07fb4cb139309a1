"""Seconds and memory of one long text: `python -m benchmarks.kernels.long_texts --lengths 512 2048 4096 8192`.

A ModernBERT-base with random weights, in stock ONNX Runtime and in the sparse runtime, on one thread, with the
service's session options. Each run is a process by itself that loads the graph, answers a short text, and then the
long one once. The memory is the growth of the process's peak resident memory by the long text.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.kernels.arms import packed_model
from benchmarks.kernels.modern_encoders import INPUT_NAMES, MODERNBERT_BASE, random_modern_classifier
from benchmarks.markdown_tables import table
from sparserve.kernels.library import find_library
from sparserve.kernels.packing import PackOptions
from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.export.onnx_export import export_onnx
from sparserve.models.export.quantization import quantize
from sparserve.models.recipes.schema import Quantization

LENGTHS: Final = (512, 2048, 4096, 8192)
WARM_UP_LENGTH: Final = 16
# The graph has no limit; the exporter compares it with torch at this length.
EXPORT_LENGTH: Final = 512
VOCABULARY: Final = MODERNBERT_BASE.vocabulary


def graphs(folder: Path, longest: int) -> Iterator[tuple[str, Path]]:
    """Write the graphs to `folder` and yield them by name; a percentage is in those of the sparse runtime."""
    network, source = random_modern_classifier(MODERNBERT_BASE, 0), folder / "fp32.onnx"
    shared: dict[str, Any] = {"vocabulary": VOCABULARY, "pad_token_id": 0, "opset": 20, "tolerance": 1e-3}
    export_onnx(network, source, input_names=INPUT_NAMES, max_length=EXPORT_LENGTH, **shared)
    yield "ORT fp32 dense", source
    quantize(source, folder / "int8.onnx", Quantization(embeddings=False))
    yield "ORT int8 dense", folder / "int8.onnx"
    for name, sparsity, attention in (
        ("0 % int8", 0.0, "fp32"),
        ("95 % int8", 0.95, "fp32"),
        ("95 % int8, int8 attention", 0.95, "int8"),
    ):
        path = folder / f"{name}.onnx"
        options: Any = {"attention": attention, "max_length": longest}
        packed_model(source, path, network.config, sparsity, PackOptions("int8"), **options)
        yield name, path


def measure_once(path: Path, length: int, library: Path | None) -> dict[str, float]:
    """Return the seconds of one text and the bytes by which it raises the peak of this process's resident memory."""
    classifier = OnnxClassifier(path, pad_token_id=0, threads=1, library=library)
    classifier.run(text(WARM_UP_LENGTH))
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes the present size
    before = resident("VmRSS")
    begin = time.perf_counter()
    classifier.run(text(length))
    return {"seconds": time.perf_counter() - begin, "bytes": resident("VmHWM") - before}


def text(length: int) -> dict[str, Any]:
    ids = np.random.default_rng(length).integers(1, VOCABULARY, (1, length), dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def resident(field: str) -> int:
    """Return a size in bytes from the kernel's description of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--graph", type=Path, help=argparse.SUPPRESS)  # measure this one, in this process
    parser.add_argument("--library", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.graph:
        print(json.dumps(measure_once(arguments.graph, arguments.lengths[0], arguments.library)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, path in graphs(Path(folder), max(arguments.lengths)):
            cells = []
            for length in arguments.lengths:
                command = [sys.executable, "-m", "benchmarks.kernels.long_texts", "--graph", str(path)]
                command += ["--lengths", str(length)]
                if "%" in name:
                    command += ["--library", str(find_library().path)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:  # the machine has too little memory
                    reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
                    print(f"{name}, {length} tokens: {reason}", file=sys.stderr)
                    cells.append("-")
                    continue
                found = json.loads(done.stdout)
                cells.append(f"{found['seconds']:.2f} s, {found['bytes'] / 1e6:,.0f} MB")
                print(f"{name}, {length} tokens: {cells[-1]}", file=sys.stderr, flush=True)
            rows.append([name, *cells])
    print(table(["graph", *(f"{length:,} tokens" for length in arguments.lengths)], rows))


if __name__ == "__main__":
    main()
