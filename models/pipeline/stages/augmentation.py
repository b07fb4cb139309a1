"""Augmentation: more training rows, made of the job's rows by changing words."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparserve.models.data.tokenization import TokenizedDataset
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.pipeline.estimate import Costs
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.step_cache import Context, Step
from sparserve.models.recipes.schema import Augmentation, Recipe
from sparserve.models.training.augmentation.rows import (
    augment,
    predicts_words,
    read_split,
    without_labels,
    write_split,
)

# Raised when a change of the code makes another result of the same inputs.
REVISION = 1
AUGMENTED = "train.jsonl"
ROW_SECONDS = 0.0005
MASKED_PASSES = 7  # forward passes per text: every seventh word is masked at once


def augmentation_step(job: Job, augmentation: Augmentation, common: Mapping[str, Any]) -> Step:
    """Return the step that writes the augmented training rows."""

    def build(folder: Path, context: Context) -> None:
        rows = augment(job.dataset.train, job.checkpoint, augmentation, seed=job.seed, progress=context.progress)
        write_split(rows, folder / AUGMENTED)

    def estimate(costs: Costs) -> float:
        predicted = predicts_words(job.checkpoint, augmentation)
        rows = copies_of_training_rows(job) * len(job.dataset.train)
        return rows * ROW_SECONDS + (costs.forward(MASKED_PASSES * costs.train) if predicted else 0.0)

    inputs = {
        "data": job.dataset.digest,
        "checkpoint": job.checkpoint.digest,
        "seed": job.seed,
        "augmentation": augmentation,
        "libraries": common["libraries"],
        "revision": [REVISION, 0],
    }
    return Step("augmentation", inputs, build, estimate)


def copies_of_training_rows(job: Job) -> int:
    """Return how many rows a training row becomes, itself included."""
    return 1 + (job.recipe.augmentation.variants if job.recipe.augmentation else 0)


def student_row_count(job: Job) -> int:
    """Return the number of rows that the student learns from, at most: augmentation drops texts that come out alike."""
    unlabeled = len(job.unlabeled_split) if job.unlabeled_split is not None else 0
    return copies_of_training_rows(job) * job.row_count("train") + unlabeled


def answers_new_texts(recipe: Recipe) -> bool:
    """Return True if the augmented texts lose the copied labels that the student would learn.

    A changed word may change the label of a text. The teacher's answer to the new text is the better target.
    """
    learns_labels = recipe.distillation is not None and recipe.distillation.labels > 0
    return recipe.augmentation is not None and recipe.imitates_teacher and learns_labels


def student_inputs(job: Job, augmentation: Step | None, common: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of a step that decide the rows which the student learns from."""
    inputs = {**common, "data": augmentation.key} if augmentation else {**common}
    if augmentation is not None and answers_new_texts(job.recipe):
        inputs["labels of new texts"] = "none"
    if job.unlabeled_split is not None:
        inputs["unlabeled"] = job.unlabeled_split.digest
    return inputs


def student_rows(job: Job, network: Checkpoint, augmentation: Step | None, context: Context) -> TokenizedDataset:
    """Return the rows that the student learns from, as tokens of this network.

    They are the training rows, augmented if the recipe says so, then the unlabelled rows.
    """
    unlabeled = job.unlabeled_split
    if augmentation is None and unlabeled is None:
        return job.rows(network)
    train = read_split(context.result(augmentation) / AUGMENTED) if augmentation else job.dataset.train
    if answers_new_texts(job.recipe):
        train = without_labels(train, after=len(job.dataset.train), multi_label=job.multi_label)
    if unlabeled is not None:
        train = train.followed_by(unlabeled)
    return job.rows(network, replace(job.dataset, train=train))
