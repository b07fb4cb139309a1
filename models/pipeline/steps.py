"""The work of each step: functions from inputs to files in a folder. What depends on what is said in `pipeline`."""

import inspect
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from sparserve.models.bundle.bundle import SPARSE_MODEL
from sparserve.models.bundle.inference import OnnxClassifier, TextTokenizer
from sparserve.models.bundle.manifest import SampleAnswer
from sparserve.models.data.dataset import Dataset, Split
from sparserve.models.data.tokenization import TokenizedSplit, tokenize
from sparserve.models.distributed import is_main, uses_gpu
from sparserve.models.encoders.checkpoint import Checkpoint, load_classifier, save_classifier
from sparserve.models.errors import CheckpointError
from sparserve.models.export.onnx_export import export_onnx, set_metadata
from sparserve.models.export.sparse_graph import write_sparse_graph
from sparserve.models.export.sparse_parity import check_packed
from sparserve.models.export.statistics import sparsity
from sparserve.models.export.token_table import EMBEDDINGS, count_tokens, shrink_embeddings
from sparserve.models.files import sync, write_atomically
from sparserve.models.recipes.schema import Embeddings, Quantization, Recipe, Training
from sparserve.models.training.teacher_outputs import Wanted, write_cache
from sparserve.models.training.trainer import Progress, TrainingResult, train

PACKED = "packed.json"
NOT_PACKED = "not-packed.txt"
TRAINED = "training.json"
TRAINING = "training"  # the states that an unfinished training goes on from
SAMPLE_TEXTS = (
    "A wonderful surprise from beginning to end.",
    "It was a waste of time and money, and I want both back.",
    "The parcel arrived on Tuesday; naïve façade, 100 %!",
)


def train_teacher(
    folder: Path,
    *,
    checkpoint: Checkpoint,
    dataset: Dataset,
    training: Training,
    max_length: int,
    seed: int,
    progress: Progress,
) -> None:
    """Fine-tune the pre-trained checkpoint; the best epoch on validation becomes the checkpoint in `folder`."""
    if is_trained(folder):
        return
    model = load_classifier(checkpoint.folder, dataset.label_names, dataset.problem_type, seed=seed)
    rows, validation = tokenized(checkpoint, dataset, max_length)
    result = train(
        model,
        training,
        rows,
        validation,
        pad_token_id=pad_token_id(checkpoint),
        multi_label=dataset.multi_label,
        seed=seed,
        folder=folder / TRAINING,
        progress=progress,
    )
    finish(folder, model, checkpoint, result)


def cache_teacher(
    folder: Path,
    *,
    teacher: Checkpoint,
    dataset: Dataset,
    max_length: int,
    wanted: Wanted,
    progress: Progress,
) -> None:
    """Write what the teacher says about every training row."""
    model = on_device(load_classifier(teacher.folder, dataset.label_names, dataset.problem_type))
    rows = tokenize(dataset.train, teacher.tokenizer(), max_length, multi_label=dataset.multi_label)
    write_cache(folder, model, rows, wanted, pad_token_id=pad_token_id(teacher), progress=progress)


def export_checkpoint(path: Path, *, checkpoint: Checkpoint, dataset: Dataset, recipe: Recipe) -> float:
    """Export a trained checkpoint as ONNX; the largest difference from torch's logits is returned."""
    # Eager attention gives the graph that onnxruntime runs fastest: no NaN guards, fewer shape computations.
    model = load_classifier(checkpoint.folder, dataset.label_names, dataset.problem_type, attention="eager").eval()
    accepted = inspect.signature(model.forward).parameters
    config: Any = model.config
    return export_onnx(
        model,
        path,
        input_names=tuple(name for name in checkpoint.tokenizer().model_input_names if name in accepted),
        max_length=recipe.max_length,
        vocabulary=int(config.vocab_size),
        pad_token_id=pad_token_id(checkpoint),
        opset=recipe.export.opset,
        tolerance=recipe.export.tolerance,
    )


def shrink_tables(
    path: Path, *, embeddings: Embeddings, checkpoint: Checkpoint, dataset: Dataset, max_length: int
) -> None:
    """Make the token table of an exported graph smaller, in place, as the recipe says, and write what became of it.

    A token counts as often as it occurs in the training texts: tokens of augmented, validation or test texts alone
    get no row of their own.
    """
    tokenizer = checkpoint.tokenizer()
    rows = tokenize(dataset.train, tokenizer, max_length, multi_label=dataset.multi_label)
    config: Any = checkpoint.config
    counts = count_tokens(rows, int(config.vocab_size))
    whole = path.with_name("whole-tables.onnx")
    path.replace(whole)
    special = frozenset(tokenizer.all_special_ids)
    table = shrink_embeddings(whole, path, embeddings, counts=counts, always_keep=special)
    path.with_name(EMBEDDINGS).write_text(table.model_dump_json(indent=1) + "\n", encoding="utf-8")
    whole.unlink()


def stamp(path: Path, variant: str, precision: str) -> None:
    """Store in a graph's metadata_props what it is, and its nonzeros as counted in the file itself."""
    counted = sparsity(path)
    groups = {name: getattr(counted, name).model_dump() for name in ("encoder_linear", "all_linear", "whole_model")}
    set_metadata(path, {"variant": variant, "precision": precision, **groups})


def pack_checkpoint(
    folder: Path,
    graph: Path,
    *,
    checkpoint: Checkpoint,
    quantization: Quantization | None,
    max_length: int,
    library: Path | None,
) -> None:
    """Write a student's fp32 graph with its encoder packed, and what was packed; int8 if a quantisation is given.

    Where `library`, the sparse runtime's, is there, its answers are compared with the graph's first. An encoder that
    the sparse runtime does not know leaves the reason behind instead: model.onnx is good without it.
    """
    config: Any = checkpoint.config
    head_size = config.hidden_size // config.num_attention_heads
    try:
        if getattr(config, "is_decoder", False):
            raise CheckpointError("every token looks at those before it only (is_decoder); the sparse runtime's at all")
        if library is not None:
            check_packed(
                graph,
                partial(write_sparse_graph, graph, head_size=head_size, values="fp32", embeddings_int8=False),
                library=library,
                vocabulary=int(config.vocab_size),
                pad_token_id=pad_token_id(checkpoint),
                max_length=max_length,
            )
        packed = write_sparse_graph(
            graph,
            folder / SPARSE_MODEL,
            head_size=head_size,
            values="int8" if quantization else "fp32",
            embeddings_int8=bool(quantization and quantization.embeddings),
            token_bits=quantization.embedding_bits if quantization else 8,
        )
    except CheckpointError as error:
        (folder / NOT_PACKED).write_text(f"{error}\n", encoding="utf-8")
        return
    (folder / PACKED).write_text(packed.model_dump_json(indent=1) + "\n", encoding="utf-8")


def predict(
    model: Path,
    tokenizer: Path,
    split: Split,
    *,
    max_length: int,
    pad_token_id: int,
    threads: int,
    progress: Progress,
    library: Path | None = None,
) -> npt.NDArray[np.float32]:
    """Logits [rows, labels] of a split, by the runtime that serves; batches of 32 rows of similar length.

    `library` is the sparse runtime's, for a graph that needs it.
    """
    classifier = OnnxClassifier(model, pad_token_id=pad_token_id, threads=threads, library=library)
    tokens = TextTokenizer(tokenizer, max_length).encode(split.texts, split.text_pairs)
    order = sorted(range(len(tokens)), key=lambda row: (len(tokens[row]), row))
    parts: list[npt.NDArray[np.float32]] = []
    for begin in range(0, len(order), 32):
        parts.append(classifier.logits([tokens[row] for row in order[begin : begin + 32]]))
        progress(min(begin + 32, len(order)), len(order), "rows")
    logits = np.concatenate(parts)
    result = np.empty_like(logits)
    result[order] = logits
    return result


def sample_answers(model: Path, tokenizer: Path, *, max_length: int, pad_token_id: int) -> tuple[SampleAnswer, ...]:
    """Logits for a few texts, one at a time on one thread: what a reader compares its own run with."""
    classifier = OnnxClassifier(model, pad_token_id=pad_token_id, threads=1)
    tokens = TextTokenizer(tokenizer, max_length).encode(SAMPLE_TEXTS)
    logits = [classifier.logits([row])[0] for row in tokens]
    return tuple(
        SampleAnswer(text=text, logits=tuple(round(float(value), 5) for value in row))
        for text, row in zip(SAMPLE_TEXTS, logits, strict=True)
    )


def tokenized(checkpoint: Checkpoint, dataset: Dataset, max_length: int) -> tuple[TokenizedSplit, TokenizedSplit]:
    """The training and validation rows as the checkpoint's tokens."""
    tokenizer = checkpoint.tokenizer()
    return (
        tokenize(dataset.train, tokenizer, max_length, multi_label=dataset.multi_label),
        tokenize(dataset.validation, tokenizer, max_length, multi_label=dataset.multi_label),
    )


def is_trained(folder: Path) -> bool:
    """Whether an earlier try has trained the network in `folder` to its end, and written it there."""
    if not (folder / TRAINED).is_file():
        return False
    if is_main():
        shutil.rmtree(folder / TRAINING, ignore_errors=True)
    return True


def finish(folder: Path, model: nn.Module, checkpoint: Checkpoint, result: TrainingResult | None = None) -> None:
    """Write a network as a checkpoint of its own, and drop the states that its training resumed from.

    Only the main process does. A kill at any point leaves those states whole, or a folder that `is_trained`.
    """
    if not is_main():
        return
    model = model.cpu()
    model.config._name_or_path = ""  # type: ignore[union-attr]
    save_classifier(model, folder)
    checkpoint.tokenizer().save_pretrained(folder)
    if result is not None:
        # The record must not outlive a power cut that the weights do not.
        for path in folder.iterdir():
            sync(path)
        scores = {"steps": result.steps, "best_step": result.best_step, "scores": result.scores}
        write_atomically(folder / TRAINED, json.dumps(scores, indent=1) + "\n")
    shutil.rmtree(folder / TRAINING, ignore_errors=True)


def pad_token_id(checkpoint: Checkpoint) -> int:
    """Id of the checkpoint's padding token."""
    return int(checkpoint.tokenizer().pad_token_id)


def on_device(model: nn.Module) -> nn.Module:
    """The model on the GPU if one is used."""
    return model.to("cuda" if uses_gpu() else "cpu")
