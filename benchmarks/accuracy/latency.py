"""Latency and size of the graphs of a run and of its teacher: onnxruntime and sparse runtime, fp32 and int8."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.tasks import Task
from sparserve.models.bundle.bundle import MODEL, SPARSE_MODEL, TOKENIZER
from sparserve.models.bundle.inference import sparse_library
from sparserve.models.bundle.variants import Arm
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.errors import SparserveError
from sparserve.models.evaluation.latency import FP32_BASELINE, RunnableGraph, measure
from sparserve.models.evaluation.prediction import predict
from sparserve.models.pipeline.execution import build_graphs
from sparserve.models.pipeline.plan import Plan
from sparserve.models.pipeline.step_cache import Context

SHAPES = ((1, 64), (8, 64))
SECONDS = 12.0


def measured(plan: Plan, teacher: Checkpoint, task: Task, context: Context) -> dict[str, Any]:
    """Return median milliseconds by batch x tokens, bytes and score for every graph of a run and of its teacher."""
    job = plan.job
    packed = build_graphs(plan, context)
    pad, library = teacher.pad_token_id, _library()
    arms = {Arm(variant): RunnableGraph(context.result(step) / MODEL, pad) for variant, step in plan.exports.items()}
    if library is not None:
        arms |= {
            Arm(variant, "sparse"): RunnableGraph(folder / SPARSE_MODEL, pad, library)
            for variant, folder in packed.items()
        }
    latency = measure(
        arms,
        batches=sorted({batch for batch, _ in SHAPES}),
        lengths=sorted({length for _, length in SHAPES}),
        max_length=job.recipe.max_length,
        threads=1,
        budget_seconds=SECONDS,
        vocabulary=int(job.checkpoint.config.vocab_size),
    )
    labels = np.asarray(job.dataset.test.labels)
    records = {}
    for arm, graph in arms.items():
        logits = predict(
            graph.model_path,
            teacher.folder / TOKENIZER,
            job.dataset.test,
            max_length=job.recipe.max_length,
            pad_token_id=pad,
            threads=job.threads,
            progress=lambda done, total, note: None,
            library=graph.library,
        )
        records[_public_name(arm)] = {
            "bytes": graph.model_path.stat().st_size,
            "score": task.score(logits.argmax(-1), labels, job.dataset.label_names),
            "milliseconds": {
                f"{point.batch}x{point.length}": round(1000 * point.p50_seconds, 3) for point in latency[arm].latency
            },
        }
    machine = latency[FP32_BASELINE].machine.model_dump(mode="json")
    return {"threads": 1, "repeats": latency[FP32_BASELINE].repeats, "machine": machine, "arms": records}


def _public_name(arm: Arm) -> str:
    """Return the name in the results: dense, dense-int8, fp32, int8, sparse fp32 or sparse int8."""
    if arm.variant.is_dense:
        return str(arm)
    return ("sparse " if arm.runtime == "sparse" else "") + arm.variant.precision


def _library() -> Path | None:
    try:
        return sparse_library().path
    except SparserveError:
        return None
