"""Tokens per second of this project's trainings and of the plain Trainer: `python -m benchmarks.training_speed FOLDER`.

FOLDER has the JSON lines of every task. Every training makes one pass over the same rows of mrpc in batches of 32, on
one thread, in each of three rounds by turns. Seconds are processor time; their medians count. Padding does not count as
tokens. Left out are evaluation, checkpoints, and the updates of pruning, each as long as a few steps.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.accuracy.tasks import TASKS
from benchmarks.markdown_tables import table
from sparserve.models.data.defaults import default_checkpoint
from sparserve.models.data.tokenization import Collator, RaggedRows, TokenizedSplit, tokenize
from sparserve.models.encoders.checkpoint import load_classifier, resolve_checkpoint
from sparserve.models.recipes.loading import load_recipe
from sparserve.models.recipes.schema import Training
from sparserve.models.training.student import required_outputs, student_loss
from sparserve.models.training.teacher_outputs import CachedTeacher, TeacherSource, write_cache
from sparserve.models.training.trainer import ResumableCallback, TrainingRows, train

ROWS, BATCH, RATE, ROUNDS = 192, 32, 1e-4, 3
Arm = Callable[[Path, TrainerCallback], Any]


class Clock(TrainerCallback):  # type: ignore[misc]
    seconds = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.seconds -= time.process_time()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.seconds += time.process_time()


def main(data: Path, work: Path) -> None:
    torch.set_num_threads(1)
    recipe = load_recipe("sparsebert-best")
    checkpoint = resolve_checkpoint(str(default_checkpoint(work)))
    dataset, pad = TASKS["mrpc"].load(data, work), Collator(checkpoint.pad_token_id)
    split = tokenize(dataset.train, checkpoint.tokenizer, recipe.max_length, multi_label=False)
    ragged = {name: RaggedRows(all_.values, all_.offsets[: ROWS + 1]) for name, all_ in split.encodings.items()}
    rows = TokenizedSplit(ragged, split.labels[:ROWS])
    load = partial(load_classifier, checkpoint.folder, dataset.label_names, dataset.problem_type)
    losses, student = recipe.distillation, recipe.student.model_copy(update={"epochs": 1.0, "least_steps": 0})
    assert losses is not None
    needed = required_outputs(losses)

    def plain(folder: Path, clock: TrainerCallback) -> None:
        options = TrainingArguments(
            str(folder), num_train_epochs=1, per_device_train_batch_size=BATCH, learning_rate=RATE, use_cpu=True,
            save_strategy="no", remove_unused_columns=False, disable_tqdm=True, report_to="none",
        )  # fmt: skip
        collate = lambda items: {name: value for name, value in pad(items).items() if name != "row"}  # noqa: E731
        Trainer(load(), options, train_dataset=rows, data_collator=collate, callbacks=[clock]).train()

    def ours(training: Training, source: TeacherSource | None, folder: Path, clock: TrainerCallback) -> None:
        loss = student_loss(source, losses, multi_label=False) if source else None
        inputs, calls = TrainingRows(rows, None, pad.pad_token_id, False), [ResumableCallback(lambda _: clock)]
        train(
            load(), training, inputs, seed=0, folder=folder, progress=quiet, loss=loss, callbacks=calls, keep_best=False
        )

    with tempfile.TemporaryDirectory() as name:
        write_cache(Path(name), load(), rows, needed, pad_token_id=checkpoint.pad_token_id, progress=quiet)
        arms: dict[str, Arm] = {
            "plain Trainer, labels": plain,
            "teacher, labels": partial(ours, Training(epochs=1, batch_size=BATCH, learning_rate=RATE), None),
            "student, from stored outputs of the teacher": partial(ours, student, CachedTeacher(Path(name))),
        }
        times: dict[str, list[float]] = {title: [] for title in arms}
        for number in range(ROUNDS):
            for title, arm in arms.items():
                arm(Path(name, f"{title} {number}"), clock := Clock())
                times[title].append(clock.seconds)
                print(f"{title}: {clock.seconds:.1f} s", flush=True)
    tokens, seconds = sum(rows.lengths), {title: median(values) for title, values in times.items()}
    base = seconds["plain Trainer, labels"]
    lines = [[title, f"{tokens / one:,.0f}", f"{base / one:.2f}"] for title, one in seconds.items()]
    print(table(["training", "tokens per second", "times the plain Trainer"], lines))


def quiet(done: int, total: int, note: str) -> None:
    """Report no progress."""


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(".cache") / "accuracy")
