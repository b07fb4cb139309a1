"""Whether a recipe can be carried out on these networks: seen before anything is run."""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from sparserve.models.data.dataset import Dataset
from sparserve.models.data.tokenization import tokenize
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.encoders.layer_mapping import uniform_choice
from sparserve.models.encoders.layers import encoder_layers
from sparserve.models.encoders.shrinking import SQUEEZED_START, check_shape
from sparserve.models.encoders.squeezing import squeeze
from sparserve.models.encoders.structure import load_structure
from sparserve.models.errors import CheckpointError, RecipeError
from sparserve.models.export.token_table import count_tokens
from sparserve.models.pruning.registry import check_pruning, make_unit_method
from sparserve.models.pruning.units.method import kept_count
from sparserve.models.recipes.schema import Recipe, Student
from sparserve.models.training.augmentation import check_augmentation
from sparserve.models.training.student import calibration_rows, required_outputs

POSITIONS_AFTER_PADDING = ("camembert", "mpnet", "roberta", "xlm-roberta")
# One ONNX file is one protobuf message of less than 2 GiB; what is not weights takes far less than this.
LARGEST_GRAPH = (1 << 31) - (1 << 24)
NO_SCORES = (
    "there are no attention scores to compare: set distillation.attention to 0, or keep all heads of all networks"
)


def check_teacher(teacher: Checkpoint, dataset: Dataset) -> tuple[str, ...]:
    """Label names in the order of a fine-tuned teacher's logits.

    Raises:
        CheckpointError: the teacher predicts other labels than the data has.
    """
    names = teacher.label_names
    if len(names) == len(dataset.label_names):
        if set(names) == set(dataset.label_names):
            return names
        by_folded = {name.casefold(): name for name in dataset.label_names}
        # Where the data tells "us" from "US", no other spelling says which of them is meant.
        if len(by_folded) == len(names) and {name.casefold() for name in names} == by_folded.keys():
            return tuple(by_folded[name.casefold()] for name in names)
        if all(name == f"LABEL_{index}" for index, name in enumerate(names)):
            return dataset.label_names
    raise CheckpointError(
        f"the teacher {teacher.name} predicts {', '.join(names)}, but the data has {', '.join(dataset.label_names)}: "
        "give a teacher that was fine-tuned on these labels, or none, to have one fine-tuned"
    )


def check_fit(checkpoint: Checkpoint, teacher: Checkpoint | None, recipe: Recipe) -> None:
    """See that the recipe can be carried out on these networks, before anything is run.

    Raises:
        RecipeError: texts are longer than a network's positions, or a method, option or loss does not fit.
        CheckpointError: a network is too large for one ONNX file or its tokenizer is another network's, or the teacher
            cannot teach this student: no saved head, another tokenizer, or too few layers to imitate.
    """
    for network in (checkpoint, teacher):
        if network is not None:
            _check_positions(network, recipe)
            _check_tokenizer(network)
    dense = outline(teacher or checkpoint, Student())
    _check_size(teacher or checkpoint, dense)
    if teacher is not None:
        _check_head(teacher, dense)
    start = starting_from(checkpoint, teacher, recipe)
    student = outline(start, recipe.student)
    _check_size(start, student)
    if recipe.squeeze is not None:
        make_unit_method(recipe.squeeze).check(student, recipe.squeeze)
    if recipe.pruning is not None:
        check_pruning(student, recipe.pruning, shapes_are_final=recipe.squeeze is None)
    _check_rank(recipe, *_token_table(student, recipe))
    if recipe.augmentation is not None:
        check_augmentation(checkpoint, recipe.augmentation)
    if teacher is not None and teacher.tokenizer().get_vocab() != checkpoint.tokenizer().get_vocab():
        raise CheckpointError(
            f"the teacher {teacher.name} and the student {checkpoint.name} have different vocabularies: it can neither "
            "be imitated nor compared; give a teacher that was fine-tuned from the same checkpoint"
        )
    if recipe.distillation is None:
        return
    _check_losses(student, dense, recipe)


def starting_from(checkpoint: Checkpoint, teacher: Checkpoint | None, recipe: Recipe) -> Checkpoint:
    """Which of the given networks the student's weights are taken from; a teacher yet to come is the checkpoint."""
    return teacher if teacher is not None and recipe.student.start == "teacher" else checkpoint


def _check_positions(network: Checkpoint, recipe: Recipe) -> None:
    config: Any = network.config
    # RoBERTa and MPNet count positions from the padding id on.
    offset = config.pad_token_id + 1 if network.model_type in POSITIONS_AFTER_PADDING else 0
    longest = config.max_position_embeddings - offset
    if recipe.max_length > longest:
        raise RecipeError(
            f"max_length is {recipe.max_length} tokens, but {network.name} has positions for {longest}: "
            f"add --set max_length={longest}, or less"
        )


def _check_tokenizer(network: Checkpoint) -> None:
    # Also where no row of the data has such a token: one request that has it would fail.
    config: Any = network.config
    vocabulary = network.tokenizer().get_vocab()
    last = max(vocabulary, key=vocabulary.__getitem__)
    if vocabulary[last] >= config.vocab_size:
        raise CheckpointError(
            f"the tokenizer of {network.name} gives {last!r} the id {vocabulary[last]}, but the model has embeddings "
            f"for {config.vocab_size} tokens only: take the tokenizer that it was trained with"
        )


def _check_size(network: Checkpoint, model: nn.Module) -> None:
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    if size > LARGEST_GRAPH:
        raise CheckpointError(
            f"{network.name} has weights of {size / 2**30:.2f} GiB in float32, but one ONNX file holds less than 2 "
            "GiB: take a smaller checkpoint, such as the base size of the same family"
        )


def _check_head(teacher: Checkpoint, model: nn.Module) -> None:
    # transformers draws at random what is not saved, and that head would teach and be the baseline.
    saved, encoder = teacher.saved_shapes(), f"{getattr(model, 'base_model_prefix', '')}."
    for name, weight in model.state_dict().items():
        if not name.startswith(encoder) and saved.get(name) != tuple(weight.shape):
            raise CheckpointError(
                f"the teacher {teacher.name} has no saved weights {list(weight.shape)} of {name}, so it is not "
                "fine-tuned on labels yet: give it as --model, and a teacher is fine-tuned from it"
            )


def _token_table(student: nn.Module, recipe: Recipe) -> tuple[int, int]:
    """Rows and columns of the table that is exported, with its whole vocabulary."""
    assert isinstance(student, PreTrainedModel)
    rows, width = student.get_input_embeddings().weight.shape
    # Embeddings that are projected to the hidden width keep their own when that is squeezed.
    if recipe.squeeze is not None and getattr(student.base_model, "embeddings_project", None) is None:
        width = kept_count(recipe.squeeze.hidden, width, "hidden dimensions")
    return int(rows), int(width)


def _check_rank(recipe: Recipe, rows: int, width: int) -> None:
    rank = recipe.embeddings.rank
    if rank is not None and rank > min(rows, width):
        raise RecipeError(
            f"embeddings.rank is {rank}, but the token table has {rows} rows and {width} columns: "
            "give a smaller rank or none"
        )


def check_vocabulary(start: Checkpoint, recipe: Recipe, dataset: Dataset) -> None:
    """See that the training rows of a student that starts from this network have tokens enough.

    Raises:
        RecipeError: they have fewer tokens than the rank of their embeddings.
    """
    if recipe.embeddings.rank is None or recipe.embeddings.vocabulary != "training":
        return
    tokenizer = start.tokenizer()
    tokens = tokenize(dataset.train, tokenizer, recipe.max_length, multi_label=dataset.multi_label)
    vocabulary, width = _token_table(outline(start, recipe.student), recipe)
    kept = {*count_tokens(tokens, vocabulary).nonzero()[0].tolist(), *tokenizer.all_special_ids}
    _check_rank(recipe, len(kept), width)


def check_calibration(start: Checkpoint, recipe: Recipe, dataset: Dataset, seed: int) -> None:
    """See that the calibration rows of a student that starts from this network tell what its squeeze asks of them.

    Raises:
        RecipeError: they are fewer than units, or too short or long for the budget.
    """
    if recipe.squeeze is None:
        return
    rows = dataset.train.take(calibration_rows(len(dataset.train), recipe.squeeze.calibration, seed))
    tokens = tokenize(rows, start.tokenizer(), recipe.max_length, multi_label=dataset.multi_label)
    make_unit_method(recipe.squeeze).check(outline(start, recipe.student), recipe.squeeze, tokens.lengths)


def outline(checkpoint: Checkpoint, student: Student) -> nn.Module:
    """The network that a student would begin as, on the device `meta`: it has shapes, but no weights.

    Raises:
        RecipeError: the checkpoint cannot be given the student's shape.
    """
    config: Any = checkpoint.config
    changes, structure = check_shape(config, student), load_structure(checkpoint.folder)
    if structure is not None and changes:
        raise RecipeError(SQUEEZED_START)
    with torch.device("meta"):
        model: nn.Module = AutoModelForSequenceClassification.from_config(
            type(config).from_dict({**config.to_dict(), **changes})
        )
    if structure is not None:
        squeeze(model, structure)
    return model


def _check_losses(student: nn.Module, teacher: nn.Module, recipe: Recipe) -> None:
    assert recipe.distillation is not None
    wanted = required_outputs(recipe.distillation)
    own, imitated = encoder_layers(student), encoder_layers(teacher)
    if (wanted.hidden or wanted.attention) and len(own) > len(imitated):
        raise CheckpointError(
            f"the student has {len(own)} layers and its teacher {len(imitated)}: "
            "set distillation.hidden, distillation.attention and distillation.cosine to 0, or student.layers"
        )
    if not wanted.attention:
        return
    if recipe.squeeze is not None and (recipe.squeeze.flops is not None or recipe.squeeze.heads < 1):
        raise RecipeError(f"the student is squeezed to fewer heads than its teacher has: {NO_SCORES}")
    config: Any = teacher.config
    if any(layer.heads != config.num_attention_heads for layer in imitated):
        raise RecipeError(f"the teacher was squeezed to fewer heads: {NO_SCORES}")
    for layer, index in zip(own, uniform_choice(len(imitated), len(own)), strict=True):
        if layer.heads != imitated[index].heads:
            raise RecipeError(f"a layer of the student has fewer heads than its teacher's: {NO_SCORES}")
