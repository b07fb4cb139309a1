"""Tokens per second of this project's trainings and of the plain Trainer: `python -m benchmarks.training_speed FOLDER`.

FOLDER has the JSON lines of every task. Every training makes passes over the same rows in batches of 32, on one thread,
by turns with the others. The first pass of each does not count: it allocates and, where the network is compiled,
compiles. Of the others the median processor time counts. Padding does not count as tokens. Left out are evaluation,
checkpoints, and the updates of pruning, each as long as a few steps.

The result is added to benchmarks/results/training-speed.json in place of an earlier one of the same precision, and the
tables of docs/how-to/choose-a-recipe.md are written again. `--publish` only writes these.
"""

import argparse
import datetime
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.accuracy.tasks import TASKS
from benchmarks.markdown_tables import table, write_between
from sparserve.models.data.defaults import default_checkpoint
from sparserve.models.data.tokenization import Collator, LengthBucketSampler, RaggedRows, TokenizedSplit, tokenize
from sparserve.models.distributed import uses_gpu
from sparserve.models.encoders.checkpoint import Checkpoint, load_classifier, resolve_checkpoint
from sparserve.models.evaluation.machine import describe_machine
from sparserve.models.files import write_atomically
from sparserve.models.recipes.loading import load_recipe
from sparserve.models.recipes.schema import Training
from sparserve.models.training import trainer
from sparserve.models.training.precision import has_bf16
from sparserve.models.training.student import required_outputs, student_loss
from sparserve.models.training.teacher_outputs import CachedTeacher, LiveTeacher, TeacherSource, write_cache
from sparserve.models.training.trainer import ResumableCallback, TrainingRows, train

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "training-speed.json"
PAGE = ROOT / "docs" / "how-to" / "choose-a-recipe.md"
RECIPE = load_recipe("sparsebert-best")
ROWS = {"mrpc": 192, "cola": 384}  # rows of a pass, by task
BATCH, RATE, ROUNDS = 32, 1e-4, 4
PLAIN = "plain Trainer of transformers, labels, fp32"
Arm = Callable[[Path, TrainerCallback], None]


class Clock(TrainerCallback):  # type: ignore[misc]
    """Processor time from the beginning of a training to the end of its last step, before anything is saved."""

    seconds = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.seconds -= time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == state.max_steps:
            self.seconds += time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_speed")
    parser.add_argument("data", type=Path, nargs="?", help="folder with the JSON lines of every task")
    parser.add_argument("--work", type=Path, default=Path(".cache") / "accuracy")
    parser.add_argument("--publish", action="store_true", help="only write the tables from the results")
    options = parser.parse_args()
    if not options.publish:
        if options.data is None:
            parser.error("the folder with the JSON lines of every task is missing")
        if uses_gpu():
            parser.error(
                "this measures processors, and the training would use the GPU: hide it with CUDA_VISIBLE_DEVICES="
            )
        torch.set_num_threads(1)
        checkpoint = resolve_checkpoint(str(default_checkpoint(options.work)))
        results = json.loads(RESULTS.read_bytes()) if RESULTS.is_file() else {}
        results["bf16" if has_bf16() else "fp32"] = {
            "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": describe_machine().model_dump(mode="json"),
            "tasks": {task: measure(task, options.data, options.work, checkpoint) for task in ROWS},
        }
        write_atomically(RESULTS, json.dumps(results, indent=1) + "\n")
    write_between(PAGE, content(json.loads(RESULTS.read_bytes())))


def measure(task: str, data: Path, work: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the number of tokens of the rows of a task, and the seconds of each pass over them by training."""
    dataset = TASKS[task].load(data, work)
    split = tokenize(dataset.train, checkpoint.tokenizer, RECIPE.max_length, multi_label=False)
    ragged = {
        name: RaggedRows(encoded.values, encoded.offsets[: ROWS[task] + 1]) for name, encoded in split.encodings.items()
    }
    rows = TokenizedSplit(ragged, split.labels[: ROWS[task]])
    load = partial(load_classifier, checkpoint.folder, dataset.label_names, dataset.problem_type)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        arms = _arms(load, rows, checkpoint.pad_token_id, Path(folder))
        for number in range(ROUNDS):
            for title, arm in arms.items():
                arm(Path(folder, f"{title} {number}"), clock := Clock())
                seconds.setdefault(title, []).append(round(clock.seconds, 2))
                print(f"{task}, {title}: {clock.seconds:.1f} s", flush=True)
    return {"rows": len(rows), "tokens": sum(rows.lengths), "seconds": seconds}


def _arms(load: Callable[[], nn.Module], rows: TokenizedSplit, pad: int, folder: Path) -> dict[str, Arm]:
    """Return the trainings by name. Each trains one network, which no other has, further in every round."""
    losses = RECIPE.distillation
    assert losses is not None
    needed = required_outputs(losses)
    write_cache(folder, load(), rows, needed, pad_token_id=pad, progress=quiet)
    teacher = Training(epochs=1, batch_size=BATCH, learning_rate=RATE)
    student = RECIPE.student.model_copy(update={"epochs": 1.0, "least_steps": 0})
    stored, live = CachedTeacher(folder), LiveTeacher(load(), needed)

    def plain(bf16: bool = False) -> Arm:
        model = load()

        def run(folder: Path, clock: TrainerCallback) -> None:
            options = TrainingArguments(
                str(folder), num_train_epochs=1, per_device_train_batch_size=BATCH, learning_rate=RATE, use_cpu=True,
                save_strategy="no", remove_unused_columns=False, disable_tqdm=True, report_to="none", bf16=bf16,
            )  # fmt: skip
            collate = lambda items: {name: value for name, value in Collator(pad)(items).items() if name != "row"}  # noqa: E731
            Trainer(model, options, train_dataset=rows, data_collator=collate, callbacks=[clock]).train()

        return run

    def ours(
        training: Training,
        source: TeacherSource | None = None,
        *,
        compiled: bool = False,
        change: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> Arm:
        model = load()
        if compiled:
            model.compile(dynamic=True)
        loss = student_loss(source, losses, multi_label=False) if source else None

        def run(folder: Path, clock: TrainerCallback) -> None:
            inputs, calls = TrainingRows(rows, None, pad, False), [ResumableCallback(lambda _: clock)]
            with change():
                train(
                    model, training, inputs, seed=0, folder=folder, progress=quiet, loss=loss, callbacks=calls,
                    keep_best=False,
                )  # fmt: skip

        return run

    in_fp32 = {"precision": "fp32"}
    arms = {PLAIN: plain()}
    if has_bf16():
        arms["the same, bf16"] = plain(bf16=True)
    arms |= {
        "teacher with trained embeddings, labels": ours(teacher),
        "the same, batches of random rows": ours(teacher, change=random_batches),
    }
    if has_bf16():
        arms |= {
            "the same, fp32": ours(teacher.model_copy(update=in_fp32)),
            "the same, fused attention": ours(teacher, change=fused_attention),
        }
    return arms | {
        "the same, compiled (torch.compile)": ours(teacher, compiled=True),
        "teacher as it ships: embeddings fixed": ours(teacher.model_copy(update={"freeze_embeddings": True})),
        "student, from stored outputs of the teacher": ours(student, stored),
        "the same, the teacher runs in every step": ours(student, live),
    }


@contextmanager
def random_batches() -> Iterator[None]:
    """Let batches have rows of any lengths."""
    with patch.object(trainer, "LengthBucketSampler", partial(LengthBucketSampler, bucket_batches=1)):
        yield


@contextmanager
def fused_attention() -> Iterator[None]:
    """Keep PyTorch's fused attention in bf16."""
    with patch.object(trainer, "fast_attention", lambda model, bf16: nullcontext()):
        yield


def content(results: dict[str, Any]) -> str:
    """Return a table for each precision, with a line above it, as Markdown."""
    parts = []
    for precision in sorted(results):
        result = results[precision]
        tasks = result["tasks"]
        rates = {
            task: {title: one["tokens"] / median(seconds[1:]) for title, seconds in one["seconds"].items()}
            for task, one in tasks.items()
        }
        lines = [
            [title, *(f"{rate[title]:,.0f} ({rate[title] / rate[PLAIN]:.2f})" for rate in rates.values())]
            for title in next(iter(rates.values()))
        ]
        rows = ", ".join(f"{task} ({one['rows']} rows, {one['tokens']:,} tokens)" for task, one in tasks.items())
        parts.append(
            f"{'With' if precision == 'bf16' else 'Without'} bf16, on {result['machine']['cpu']}, "
            f"{result['measured_at'][:10]}, {rows}: tokens per second; in brackets, times the plain Trainer.\n\n"
            + table(["training", *rates], lines)
            + "\n"
        )
    return "\n".join(parts)


def quiet(done: int, total: int, note: str) -> None:
    """Report no progress."""


if __name__ == "__main__":
    main()
