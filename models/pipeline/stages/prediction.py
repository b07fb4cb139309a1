"""Prediction: the logits of a variant's graph for a split of held-out rows, in the runtime that serves it."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sparserve.models.bundle.bundle import MODEL, SPARSE_MODEL, TOKENIZER
from sparserve.models.bundle.variants import Arm
from sparserve.models.evaluation.prediction import predict
from sparserve.models.pipeline.inputs import Environment, Job
from sparserve.models.pipeline.step_cache import Context, Step

LOGITS = "logits.npy"
TITLES = {"test": "predict", "validation": "validate"}


def prediction_step(
    job: Job,
    environment: Environment,
    arm: Arm,
    graph: Step,
    network: Step,
    split: Literal["validation", "test"] = "test",
) -> Step:
    """Return the step that predicts a split with the graph that an export or a pack made of a network."""
    runtime = environment.sparse_runtime if arm.runtime == "sparse" else None

    def build(folder: Path, context: Context) -> None:
        checkpoint = context.checkpoint(network, job.checkpoint.name)
        logits = predict(
            context.result(graph) / (SPARSE_MODEL if runtime else MODEL),
            checkpoint.folder / TOKENIZER,
            job.dataset.test if split == "test" else job.dataset.validation,
            max_length=job.recipe.max_length,
            pad_token_id=checkpoint.pad_token_id,
            threads=job.threads,
            progress=context.progress,
            library=runtime.path if runtime else None,
            long_texts=job.recipe.long_texts,
            problem_type=job.dataset.problem_type,
        )
        np.save(folder / LOGITS, logits)

    inputs: dict[str, Any] = {"graph": graph.key, "data": job.dataset.digest}
    if runtime is not None:
        inputs["library"] = runtime.digest
    if split != "test":
        inputs["split"] = split
    name = f"{TITLES[split]} {arm.variant}{' sparse' if runtime else ''}"
    return Step(
        name,
        inputs,
        build,
        lambda costs: costs.forward(costs.test if split == "test" else costs.validation) + 1,
        (network, graph),
    )


def read_logits(folder: Path) -> npt.NDArray[np.float32]:
    """Return the logits [rows, labels] that a prediction step wrote."""
    logits: npt.NDArray[np.float32] = np.load(folder / LOGITS)
    return logits
