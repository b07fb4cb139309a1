"""Fine-tuning with the Hugging Face Trainer: length buckets, bf16 where supported, exact resumption.

A killed run resumes from its last checkpoint and ends with the same weights, bit for bit, as an uninterrupted run on
the same machine with the same number of threads. The order of rows depends only on the seed and the epoch, and the
random numbers of a step only on the seed and the step. Several processes share every batch.
"""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from safetensors.torch import load_model, save_model
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from sparserve.models.data.tokenization import Collator, LengthBucketSampler, TokenizedSplit
from sparserve.models.distributed import count, is_main, mean, rows_each, uses_gpu, wait
from sparserve.models.encoders.weights import check_weights, read_tensors
from sparserve.models.errors import TrainingError
from sparserve.models.evaluation.one_score import rank_correlation
from sparserve.models.files import write_atomically
from sparserve.models.recipes.schema import Student, Training
from sparserve.models.training.precision import fast_attention, trains_in_bf16
from sparserve.models.types import Loss, Progress


@dataclass(frozen=True)
class TrainingRows:
    """Tokenised rows of a run. Batches are padded with `pad_token_id`. Without `validation` there are no scores."""

    training: TokenizedSplit
    validation: TokenizedSplit | None
    pad_token_id: int
    multi_label: bool


@dataclass(frozen=True)
class ResumableCallback:
    """A callback whose state is part of every checkpoint.

    `make` builds the callback for a run that resumes from a checkpoint folder (None: a new run). A checkpoint without
    `file` is incomplete.
    """

    make: Callable[[Path | None], TrainerCallback]
    file: str | None = None


@dataclass(frozen=True)
class TrainingResult:
    """Validation scores by step (accuracy; macro F1 for multi-label tasks) and the step with the best score."""

    steps: int
    best_step: int
    scores: dict[int, float]


def set_dropout(model: nn.Module, probability: float) -> None:
    """Set the probability of every dropout layer."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability


def train(
    model: nn.Module,
    training: Training,
    rows: TrainingRows,
    *,
    seed: int,
    folder: Path,
    progress: Progress,
    loss: Loss | None = None,
    callbacks: Sequence[ResumableCallback] = (),
    keep_best: bool = True,
    least_evaluations: int = 1,
) -> TrainingResult:
    """Train `model` in place. It ends with the best weights on validation, or the last ones without `keep_best`.

    Every epoch ends with an evaluation; fewer epochs than `least_evaluations` have several. `folder` holds the
    checkpoints of an unfinished run, which is resumed. `loss` takes the model, its inputs and the row numbers [batch];
    the default is the model's loss on the labels.

    Raises:
        TrainingError: the loss or a gradient is not finite. The last good checkpoint stays in `folder`.
        RecipeError: the processes cannot share a batch evenly.
    """
    if training.dropout is not None:
        set_dropout(model, training.dropout)
    if training.freeze_embeddings:
        model.base_model.embeddings.requires_grad_(False)  # type: ignore[union-attr]
    steps_per_epoch = math.ceil(len(rows.training) / training.batch_size)
    steps = max(round(training.epochs * steps_per_epoch), 1)
    eval_steps = min(steps_per_epoch, math.ceil(steps / least_evaluations)) if rows.validation is not None else None
    arguments = _arguments(training, folder, seed=seed, steps=steps, eval_steps=eval_steps)
    model.to(arguments.device)  # before the callbacks are made: their masks and scores lie on the model's device
    checkpoint_files = tuple(callback.file for callback in callbacks if callback.file is not None)
    checkpoint = last_complete_checkpoint(folder, checkpoint_files)
    best = _BestCallback(model, folder / "best" if keep_best else None, folder / "scores.json")
    trainer = _ClassifierTrainer(
        loss=loss,
        checkpoint_files=checkpoint_files,
        model=model,
        args=arguments,
        train_dataset=rows.training,
        eval_dataset=rows.validation,
        data_collator=Collator(rows.pad_token_id),
        compute_metrics=lambda output: {
            "score": score(output.predictions, output.label_ids, multi_label=rows.multi_label)
        },
        callbacks=[
            _SeedCallback(seed),
            _FiniteCallback(folder, checkpoint_files),
            best,
            _ProgressCallback(progress),
            *(callback.make(checkpoint) for callback in callbacks),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    transformers.logging.disable_progress_bar()  # the Trainer enables it
    with fast_attention(model, bf16=arguments.bf16):
        if checkpoint is not None and _step(checkpoint) >= steps:
            # Killed after the last step: the Trainer would start the epoch again and take one more step.
            trainer._load_from_checkpoint(str(checkpoint))
            trainer.state.global_step = trainer.state.max_steps = steps
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if rows.validation is not None and steps not in best.scores:
            trainer.evaluate()
    if keep_best:
        wait()
        load_model(model, best_weights(folder))
    wait()  # after this the caller may remove `folder`
    model.eval()
    return TrainingResult(steps, best.best_step if keep_best else steps, best.scores)


def best_weights(folder: Path) -> Path:
    """Return the file with the best weights of a training whose states are in `folder`."""
    return folder / "best" / "model.safetensors"


def _arguments(training: Training, folder: Path, *, seed: int, steps: int, eval_steps: int | None) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=rows_each(training.batch_size),
        per_device_eval_batch_size=64,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_gradient_norm,
        bf16=trains_in_bf16(training),
        eval_strategy="no" if eval_steps is None else "steps",
        eval_steps=eval_steps,
        save_strategy="steps",
        save_steps=training.save_steps,
        save_total_limit=2,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        seed=seed,
        use_cpu=not uses_gpu(),
        dataloader_pin_memory=uses_gpu(),
        # Some parameters, such as a projection, are used outside the forward pass, where DDP does not see them.
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        report_to="none",
        log_level="error",
        log_level_replica="error",
        **_schedule(training, steps),
    )
    # With several GPUs per process the Trainer would use nn.DataParallel, whose replicas lose the hooks of the losses.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def score(logits: npt.NDArray[np.float32], labels: npt.NDArray[Any], *, multi_label: bool) -> float:
    """Return the score that compares epochs and search trials: accuracy, or macro F1 for multi-label tasks.

    `logits` are [rows, labels]. `labels` are [rows], or [rows, labels] of 0 and 1 for multi-label tasks. As in reports
    (`evaluation.scores.evaluate`), a label that is neither in the truth nor predicted does not count. A network with
    one logit, a number or a relevance, is scored by its rank correlation.
    """
    if logits.shape[-1] == 1:
        return rank_correlation(np.ravel(logits), np.ravel(labels))
    if not multi_label:
        return float(accuracy_score(labels, np.argmax(logits, axis=-1)))
    truth, predicted = labels.astype(np.bool_), logits > 0
    counted = np.flatnonzero((truth | predicted).any(axis=0))
    if not len(counted):
        return 0.0
    return float(f1_score(truth, predicted, labels=counted, average="macro", zero_division=0))


def last_complete_checkpoint(folder: Path, required: Sequence[str] = ()) -> Path | None:
    """Return the newest complete checkpoint, or None. Removes newer ones that a kill left incomplete."""
    by_step = {_step(path): path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")}
    for step, path in sorted(by_step.items(), reverse=True):
        try:
            # The Trainer writes this file last, before the files of callbacks.
            state = json.loads((path / "trainer_state.json").read_bytes())
            complete = state["global_step"] == step and all((path / name).is_file() for name in required)
        except (OSError, ValueError, KeyError):
            complete = False
        if complete:
            return path
        shutil.rmtree(path, ignore_errors=True)  # other processes do the same
    return None


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _schedule(training: Training, steps: int) -> dict[str, Any]:
    warmup = round(training.warmup * steps)
    if isinstance(training, Student) and training.schedule == "cosine_restarts":
        # Learning-rate rewinds: every cycle starts at the peak again.
        cycles = {"num_cycles": training.cycles}
        return {"lr_scheduler_type": "cosine_with_restarts", "warmup_steps": warmup, "lr_scheduler_kwargs": cycles}
    if training.schedule == "decay_last":
        decay = {"num_decay_steps": max(round(training.decay * steps), 1), "decay_type": "linear", "min_lr_ratio": 0.0}
        return {"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": warmup, "lr_scheduler_kwargs": decay}
    kind = {"constant": "constant_with_warmup", "linear": "linear"}[training.schedule]
    return {"lr_scheduler_type": kind, "warmup_steps": warmup}


class _ClassifierTrainer(Trainer):  # type: ignore[misc]
    def __init__(self, *, loss: Loss | None, checkpoint_files: tuple[str, ...], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.distillation_loss = loss
        self.checkpoint_files = checkpoint_files

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # `save_pretrained` writes weights of some architectures under other names, which the Trainer would leave out.
        network = self.model if model is None else model
        network.load_state_dict(read_tensors(check_weights(Path(resume_from_checkpoint), network).loaded))

    def _get_train_sampler(self, train_dataset: TokenizedSplit | None = None) -> LengthBucketSampler:
        rows: TokenizedSplit = train_dataset if train_dataset is not None else self.train_dataset
        return LengthBucketSampler(rows.lengths, self.args.train_batch_size * count(), self.args.seed)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        inputs = dict(inputs)
        rows = inputs.pop("row")
        if self.distillation_loss is None or return_outputs:
            outputs = model(**inputs)
            loss = outputs.loss
        else:
            outputs, loss = None, self.distillation_loss(model, inputs, rows)
        if not torch.isfinite(mean_loss := mean(loss)):
            problem = f"the loss is {mean_loss.item()}"
            raise _not_finite(problem, self.state.global_step + 1, Path(self.args.output_dir), self.checkpoint_files)
        return (loss, {"loss": loss, "logits": outputs.logits}) if return_outputs else loss


class _SeedCallback(TrainerCallback):  # type: ignore[misc]
    """Seeds every step of each process, so that its random numbers do not depend on earlier steps."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.manual_seed(self.seed * 1_000_003 + state.global_step + (args.process_index << 48))


class _FiniteCallback(TrainerCallback):  # type: ignore[misc]
    """Stops training at a gradient that is not finite, before it reaches the weights and a checkpoint."""

    def __init__(self, folder: Path, checkpoint_files: Sequence[str]) -> None:
        self.folder = folder
        self.checkpoint_files = checkpoint_files

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        if not torch.isfinite(norm):
            problem = f"the gradient norm is {norm.item()}"
            raise _not_finite(problem, state.global_step + 1, self.folder, self.checkpoint_files)


def _not_finite(problem: str, step: int, folder: Path, checkpoint_files: Sequence[str]) -> TrainingError:
    checkpoint = last_complete_checkpoint(folder, checkpoint_files)
    kept = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
    return TrainingError(
        f"{problem} at step {step}; {kept}. Lower the learning rate or raise the warm-up in the recipe, and run again."
    )


class _BestCallback(TrainerCallback):  # type: ignore[misc]
    """Records validation scores. With a `folder`, keeps the best weights in it; the first of equals wins."""

    def __init__(self, model: nn.Module, folder: Path | None, scores_path: Path) -> None:
        self.model = model
        self.folder = folder
        self.scores_path = scores_path
        stored = json.loads(scores_path.read_bytes()) if scores_path.is_file() else {}
        self.scores = {int(step): float(score) for step, score in stored.items()}

    @property
    def best_step(self) -> int:
        return max(self.scores, key=lambda step: (self.scores[step], -step))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        # A resumed run may evaluate a step again, with the same score.
        earlier = [score for step, score in self.scores.items() if step < state.global_step]
        if self.folder and is_main() and (not earlier or metrics["eval_score"] > max(earlier)):
            self.folder.mkdir(parents=True, exist_ok=True)
            save_model(self.model, str(self.folder / "partial.safetensors"))
            (self.folder / "partial.safetensors").replace(self.folder / "model.safetensors")
        self.scores[state.global_step] = metrics["eval_score"]
        if is_main():
            write_atomically(self.scores_path, json.dumps(self.scores))


class _ProgressCallback(TrainerCallback):  # type: ignore[misc]
    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.score = ""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress(state.global_step, state.max_steps, self.score)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        self.score = f"validation {metrics['eval_score']:.3f}"
        self.progress(state.global_step, state.max_steps, self.score)
