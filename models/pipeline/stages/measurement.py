"""The measurement: latency and memory of all graphs, interleaved in one session."""

import json
from collections.abc import Mapping
from pathlib import Path

from sparserve.models.bundle.bundle import MODEL, SPARSE_MODEL
from sparserve.models.bundle.manifest import Measurement
from sparserve.models.bundle.variants import Arm, Variant
from sparserve.models.evaluation.latency import RunnableGraph, measure
from sparserve.models.pipeline.inputs import Environment, Job
from sparserve.models.pipeline.step_cache import Context, Step

MEASUREMENT = "measurement.json"
LOADING_SECONDS = 15


def measurement_step(
    job: Job, environment: Environment, exports: Mapping[Variant, Step], packs: Mapping[Variant, Step]
) -> Step:
    """Return the step that measures all exports, and all packs that the sparse runtime can run here."""
    settings, runtime = job.recipe.measurement, environment.sparse_runtime
    packs = packs if runtime else {}

    def build(folder: Path, context: Context) -> None:
        pad_token_id = job.checkpoint.pad_token_id
        graphs = {
            Arm(variant): RunnableGraph(context.result(step) / MODEL, pad_token_id) for variant, step in exports.items()
        }
        for variant, step in packs.items():
            path = context.result(step) / SPARSE_MODEL
            if runtime is not None and path.is_file():
                graphs[Arm(variant, "sparse")] = RunnableGraph(path, pad_token_id, runtime.path)
        networks = (job.checkpoint, job.teacher_or_checkpoint)
        measured = measure(
            graphs,
            batches=settings.batches,
            lengths=settings.lengths,
            max_length=job.recipe.max_length,
            threads=environment.measured_threads(job.recipe),
            budget_seconds=settings.seconds,
            vocabulary=min(int(network.config.vocab_size) for network in networks),
            progress=context.progress,
        )
        content = {str(arm): record.model_dump(mode="json") for arm, record in measured.items()}
        (folder / MEASUREMENT).write_text(json.dumps(content), encoding="utf-8")

    inputs = {
        "graphs": {str(variant): step.key for variant, step in exports.items()},
        "packed": {str(variant): step.key for variant, step in packs.items()},
        "library": runtime.digest if runtime else None,
        "measurement": settings,
        "threads": environment.measured_threads(job.recipe),
        "machine": environment.machine,
    }
    needs = (*exports.values(), *packs.values())
    return Step("measurement", inputs, build, lambda costs: settings.seconds + LOADING_SECONDS, needs)


def read_measurement(folder: Path) -> dict[Arm, Measurement]:
    """Return the measurement of every arm that a measurement step wrote."""
    stored = json.loads((folder / MEASUREMENT).read_bytes())
    return {Arm.parse(arm): Measurement.model_validate(record) for arm, record in stored.items()}
