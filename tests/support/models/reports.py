"""A task with a complete report and hostile texts and labels, and its terminal table."""

from pathlib import Path

import numpy as np
from rich.console import Console

import tests.support.tiny_bundles
from sparserve.models.bundle.manifest import (
    Calibration,
    Density,
    LatencyPoint,
    Machine,
    Measurement,
    Sparsity,
    TensorSparsity,
)
from sparserve.models.bundle.store import Store
from sparserve.models.evaluation.scores import compare_with_reference, evaluate
from sparserve.models.report.builder import terminal_table
from sparserve.models.report.schema import Report

TASK = tests.support.tiny_bundles.TASK
ATTACK = "<script>alert('x')</script> | a\n\npipe & `code` </script>"
LABELS = ("negative", "<b>posi|tive</b>")
CALIBRATION = Calibration(
    temperature=1.5, rows=40, error_before=0.125, error_after=0.0625, nll_before=0.5, nll_after=0.25
)
MACHINE = Machine(
    cpu="A CPU",
    isa=("avx2",),
    cores=2,
    memory_bytes=2**34,
    system="Linux 6.1 x86_64",
    python="3.11",
    onnxruntime="1.31",
)


def measurement(seconds: float, measured_at: str = "2026-01-01T00:00:00+00:00") -> Measurement:
    """Return a measurement of `seconds` at batch 1, against 10 ms for fp32 dense and 5 ms for int8 dense."""
    points = tuple(
        LatencyPoint(
            batch=batch,
            length=length,
            p50_seconds=seconds * batch,
            p95_seconds=1.2 * seconds * batch,
            items_per_second=1 / seconds,
            dense_p50_seconds=0.010 * batch,
            dense_int8_p50_seconds=0.005 * batch,
        )
        for batch in (1, 8)
        for length in (16, 64)
    )
    return Measurement(
        measured_at=measured_at, machine=MACHINE, threads=2, repeats=7, resident_bytes=10**8, latency=points
    )


def sparsity(zeros: float) -> Sparsity:
    """Return two layers of two matrices with a fraction `zeros` of zeros."""
    kept = round(100 * (1 - zeros))
    tensors = tuple(
        TensorSparsity(
            name=f"bert.encoder.layer.{layer}.{name}.weight",
            shape=(10, 10),
            nonzero=kept,
            pattern="unstructured" if zeros > 0.25 else "dense",
            bits=32,
            group="encoder_linear",
        )
        for layer in (0, 1)
        for name in ("attention.self.query", "output.dense")
    )
    encoder = Density(parameters=400, nonzero=4 * kept)
    whole = Density(parameters=800, nonzero=400 + 4 * kept)
    return Sparsity(encoder_linear=encoder, all_linear=encoder, whole_model=whole, tensors=tensors)


def publish_variants(folder: Path) -> Store:
    """Publish four variants with hostile texts and labels; the pruned ones misclassify every tenth row."""
    store = Store(folder)
    labels = np.arange(100) % 2
    right = np.where(labels[:, None] == np.arange(2), 2, -2).astype(np.float32)
    options = {"label_names": LABELS, "problem_type": "single_label_classification", "bootstrap_samples": 100}
    dense = None
    for variant, seconds in {"dense": 0.010, "dense-int8": 0.005, "sparse90": 0.010, "sparse90-int8": 0.005}.items():
        logits = right.copy()
        if "sparse" in variant:
            logits[::10] *= -1
        evaluation = evaluate(logits, labels, **options)
        if dense is not None:
            version = dense.manifest.version
            texts = [ATTACK] * 100
            evaluation = compare_with_reference(
                evaluation, logits, right, labels, texts=texts, text_pairs=texts, reference_version=version, **options
            )
        bundle = tests.support.tiny_bundles.publish(
            store,
            variant=variant,
            labels=LABELS,
            precision="int8" if variant.endswith("int8") else "fp32",
            sparsity=sparsity(0.9 if "sparse" in variant else 0.0),
            evaluation=evaluation,
            calibration=CALIBRATION if "sparse" in variant else None,
            measurement=measurement(seconds),
            recipe={"name": ATTACK, "pruning": {"sparsity": 0.9}},
        )
        dense = dense or bundle
    store.set_default_variant(TASK, "sparse90-int8")
    return store


def printed(report: Report) -> str:
    """Return the terminal table with plain spaces."""
    with open("/dev/null", "w") as nowhere:
        console = Console(width=140, record=True, file=nowhere)
        console.print(terminal_table(report))
        return console.export_text().replace("\u00a0", " ")
