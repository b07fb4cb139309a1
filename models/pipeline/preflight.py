"""Preflight checks: does a recipe fit these checkpoints and this data? They run before any expensive step."""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from sparserve.models.bundle.windows import WindowFrame
from sparserve.models.distributed import rows_each
from sparserve.models.encoders.any_classifier import AnyClassifier
from sparserve.models.encoders.architectures.registry import architecture_of
from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.encoders.layer_mapping import uniform_choice
from sparserve.models.encoders.layers import encoder_layers
from sparserve.models.encoders.shrinking import SQUEEZED_START, check_shape
from sparserve.models.encoders.squeezing import squeeze
from sparserve.models.encoders.structure import load_structure
from sparserve.models.encoders.weights import WeightMatch, check_weights
from sparserve.models.errors import CheckpointError, RecipeError
from sparserve.models.export.token_table import count_tokens
from sparserve.models.pipeline.inputs import Job, starting_from
from sparserve.models.pruning.registry import check_pruning, make_unit_method
from sparserve.models.pruning.units.method import kept_count
from sparserve.models.recipes.schema import Recipe, Student
from sparserve.models.training.augmentation.rows import check_augmentation
from sparserve.models.training.student import calibration_rows, required_outputs

# An ONNX file is one protobuf message of less than 2 GiB. All but the weights takes far less than the margin here.
LARGEST_GRAPH = (1 << 31) - (1 << 24)
NO_SCORES = (
    "there are no attention scores to compare: set distillation.attention to 0, or keep all heads of all networks"
)


def check_recipe(checkpoint: Checkpoint, teacher: Checkpoint | None, recipe: Recipe) -> None:
    """Check that the recipe can be carried out on these networks.

    Raises:
        RecipeError: texts are longer than a network's positions, a method, option or loss does not fit, or the
            processes cannot share a batch evenly.
        CheckpointError: a network's weights or tokenizer are another network's, or it is too large for one ONNX file,
            or the teacher cannot teach this student: no saved head, another tokenizer, or too few layers to imitate.
    """
    if recipe.student.epochs:
        rows_each(recipe.student.batch_size)
    for network in (checkpoint, teacher):
        if network is not None:
            _check_positions(network, recipe)
            _check_tokenizer(network)
            whole = outline(network, Student())
            match = check_weights(network.folder, whole)
            if network is teacher:
                _check_head(network, whole, match)
            _check_forward(network, whole)
    dense = outline(teacher or checkpoint, Student())
    _check_size(teacher or checkpoint, dense)
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
    if recipe.distillation is None:
        return
    _check_losses(student, dense, recipe)


def is_another_network(teacher: Checkpoint, checkpoint: Checkpoint, recipe: Recipe) -> bool:
    """Return True if a given teacher cannot be the dense variant of this checkpoint, but only answer for it.

    It has another vocabulary, or another shape than the checkpoint although the student starts from its teacher.
    """
    if isinstance(teacher, AnyClassifier) or teacher.tokenizer.get_vocab() != checkpoint.tokenizer.get_vocab():
        return True
    return recipe.student.start == "teacher" and _shape(teacher) != _shape(checkpoint)


def _shape(network: Checkpoint) -> tuple[Any, ...]:
    config: Any = network.config
    sizes = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    return (network.model_type, *(getattr(config, name, None) for name in sizes))


def check_bigger_teacher(teacher: Checkpoint, recipe: Recipe) -> None:
    """Check that a network can answer as a bigger teacher.

    Raises:
        RecipeError: texts are longer than its positions.
        CheckpointError: its weights or tokenizer are another network's, or it has no saved head.
    """
    _check_positions(teacher, recipe)
    _check_tokenizer(teacher)
    _check_label_maps(teacher)
    if not isinstance(teacher, AnyClassifier):  # of other architectures transformers checks the weights
        whole = outline(teacher, Student())
        _check_head(teacher, whole, check_weights(teacher.folder, whole))


def check_unlabeled(recipe: Recipe) -> None:
    """Check that unlabelled rows have a target.

    Raises:
        RecipeError: the student does not learn from a teacher.
    """
    if recipe.imitates_teacher:
        return
    if not recipe.student.epochs:
        raise RecipeError(
            f"--unlabeled: recipe {recipe.name} trains no student, so it has no use for more rows: take a recipe that "
            "does, such as sparsebert-best"
        )
    raise RecipeError(
        f"--unlabeled: the student of recipe {recipe.name} learns from labels only, and these rows have none: take a "
        "recipe with distillation, such as sparsebert-best, or add --set distillation.logits=1"
    )


def _check_positions(network: Checkpoint, recipe: Recipe) -> None:
    if isinstance(network, AnyClassifier):
        longest = getattr(network.config, "max_position_embeddings", None) or recipe.max_length
    else:
        longest = network.architecture.longest_text(network.config)
    if recipe.max_length > longest:
        raise RecipeError(
            f"max_length is {recipe.max_length} tokens, but {network.name} has positions for {longest}: "
            f"add --set max_length={longest}, or less"
        )


def _check_tokenizer(network: Checkpoint) -> None:
    # The data may lack such a token, but a request that has it would fail.
    config: Any = network.config
    vocabulary = network.tokenizer.get_vocab()
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


def _check_forward(network: Checkpoint, model: nn.Module) -> None:
    """Run the network without its weights: some wrong fields of a configuration show only then."""
    errors: list[Exception] = []
    ids = torch.zeros(2, 3, dtype=torch.long, device="meta")
    # Without a mask the code of DeBERTa, and of MPNet in older releases of transformers, searches the ids for padding;
    # with one, others' code searches it for zeros. Neither is possible without values.
    for mask in (None, ids):
        try:
            with torch.inference_mode():
                model.eval()(input_ids=ids, attention_mask=mask)
        except Exception as error:  # a wrong field can raise any exception
            errors.append(error)
        else:
            return
    reason = next((error for error in errors if "meta tensors" not in str(error)), errors[0])
    raise CheckpointError(f"{network.folder}/config.json describes a network that does not run: {reason}") from reason


def _check_head(teacher: Checkpoint, model: nn.Module, match: WeightMatch) -> None:
    # transformers draws missing weights at random and drops others: such a head would teach and be the baseline.
    for name, weight in model.state_dict().items():
        saved = match.misshapen.get(name)
        if saved is not None and saved.shape[1:] == weight.shape[1:]:
            raise CheckpointError(
                f"{teacher.folder}/config.json names {weight.shape[0]} labels, but the saved head {name} has "
                f"{saved.shape[0]}: correct id2label"
            )
        if name not in match.loaded:
            raise CheckpointError(
                f"the teacher {teacher.name} has no saved weights {list(weight.shape)} of {name}, so it is not "
                "fine-tuned on labels yet: give it as --model, and a teacher will be fine-tuned from it"
            )
    _check_label_maps(teacher)
    architectures = teacher.config.architectures or []
    if architectures and not any(str(name).endswith("ForSequenceClassification") for name in architectures):
        raise CheckpointError(
            f"the teacher {teacher.name} is a {', '.join(map(str, architectures))} by its config.json, not a network "
            "for sequence classification: give it as --model, and a teacher will be fine-tuned from it"
        )
    if match.unplaced:
        raise CheckpointError(
            f"the teacher {teacher.name} has weights beside the encoder that the network has no place for, such as "
            f"{match.unplaced[0]}, so its answers would be others: give it as --model, and a teacher will be "
            "fine-tuned from it"
        )


def _check_label_maps(teacher: Checkpoint) -> None:
    config: Any = teacher.config
    names, indices = config.id2label, config.label2id
    if not isinstance(indices, dict) or len(set(names.values())) < len(names):
        return
    unnamed = indices.keys().isdisjoint(names.values()) and all(
        str(name).startswith("LABEL_") for name in names.values()
    )
    if unnamed or any(indices.get(name, index) != index for index, name in names.items()):
        raise CheckpointError(
            f"{teacher.folder}/config.json: id2label and label2id contradict each other, so its labels may be swapped: "
            f"{names} and {indices}. Correct the one that is wrong, and remove the other"
        )


def _token_table(student: nn.Module, recipe: Recipe) -> tuple[int, int]:
    """Return the rows and columns of the exported table with its whole vocabulary."""
    assert isinstance(student, PreTrainedModel)
    rows, width = student.get_input_embeddings().weight.shape
    # Projected embeddings keep their width when the hidden width is squeezed.
    projection = architecture_of(student.config).embedding_projection
    projected = any(name == projection for name, _ in student.base_model.named_modules())
    if recipe.squeeze is not None and not projected:
        width = kept_count(recipe.squeeze.hidden, width, "hidden dimensions")
    return int(rows), int(width)


def _check_rank(recipe: Recipe, rows: int, width: int) -> None:
    rank = recipe.embeddings.rank
    if rank is not None and rank > min(rows, width):
        raise RecipeError(
            f"embeddings.rank is {rank}, but the token table has {rows} rows and {width} columns: "
            "give a smaller rank or none"
        )


def check_vocabulary(job: Job) -> None:
    """Check that the training rows have enough tokens for the student's embeddings.

    Raises:
        RecipeError: they have fewer tokens than the rank of the embeddings.
    """
    recipe, start = job.recipe, job.start
    if recipe.embeddings.rank is None or recipe.embeddings.vocabulary != "training":
        return
    vocabulary, width = _token_table(outline(start, recipe.student), recipe)
    counts = count_tokens(job.rows(start).train, vocabulary)
    kept = {*counts.nonzero()[0].tolist(), *start.tokenizer.all_special_ids}
    _check_rank(recipe, len(kept), width)


def check_long_texts(job: Job) -> None:
    """Check that windows can split the texts of the data.

    Raises:
        RecipeError: rows have two texts, or a tokenizer does not mark its special tokens.
    """
    if not job.recipe.long_texts.windowed:
        return
    if job.bigger_teacher is not None:
        raise RecipeError(
            f"long_texts asks for windows, but the windows of the teacher {job.bigger_teacher.name} are not those of "
            f"{job.checkpoint.name}, so it cannot answer them: add --set long_texts.overlong=truncate"
        )
    way_out = "add --set long_texts.overlong=truncate"
    if job.dataset.train.soft is not None:
        raise RecipeError(f"long_texts asks for windows, but soft labels are those of whole texts: {way_out}")
    if job.dataset.pairs:
        raise RecipeError(f"long_texts asks for windows, which split single texts, but the data has pairs: {way_out}")
    for network in (job.checkpoint, job.teacher):
        if network is not None and WindowFrame.of(network.tokenizer.backend_tokenizer, job.recipe.max_length) is None:
            raise RecipeError(
                f"long_texts asks for windows, but the tokenizer of {network.name} does not say which tokens are "
                f"special ones: {way_out}"
            )


def check_type_ids(job: Job) -> None:
    """Check that the networks take the pairs of texts of the data.

    Raises:
        CheckpointError: a tokenizer marks the second text of a pair with a type that its network has no embedding for.
    """
    if job.dataset.train.text_pairs is None:
        return
    for network in (job.checkpoint, job.teacher, job.bigger_teacher):
        types = getattr(network.config, "type_vocab_size", None) if network is not None else None
        if network is None or not types or "token_type_ids" not in network.tokenizer.model_input_names:
            continue
        last = max(network.tokenizer("a", "a")["token_type_ids"])
        if last >= types:
            raise CheckpointError(
                f"the data has pairs of texts, but {network.name} cannot read pairs: its tokenizer gives the second "
                f"text the type {last}, and it has embeddings for {types} type{'s' if types > 1 else ''} only "
                "(type_vocab_size); take another checkpoint, or join the two columns into one text"
            )


def check_calibration(job: Job) -> None:
    """Check that the calibration rows hold enough information for the squeeze.

    Raises:
        RecipeError: they are fewer than units, or too short or too long for the budget.
    """
    recipe, start = job.recipe, job.start
    if recipe.squeeze is None:
        return
    lengths = job.rows(start).train.lengths
    rows = calibration_rows(len(lengths), recipe.squeeze.calibration, job.seed)
    network = outline(start, recipe.student)
    make_unit_method(recipe.squeeze).check(network, recipe.squeeze, [lengths[row] for row in rows])


def outline(checkpoint: Checkpoint, student: Student) -> nn.Module:
    """Return the network that a student would start as, on the device `meta`: it has shapes, but no weights.

    Raises:
        RecipeError: the checkpoint cannot be given the student's shape.
        CheckpointError: its configuration describes no network.
    """
    config: Any = checkpoint.config
    changes, structure = check_shape(config, student), load_structure(checkpoint.folder)
    if structure is not None and changes:
        raise RecipeError(SQUEEZED_START)
    try:
        with torch.device("meta"):
            model: nn.Module = AutoModelForSequenceClassification.from_config(
                type(config).from_dict({**config.to_dict(), **changes})
            )
    except Exception as error:  # a wrong field can raise any exception
        raise CheckpointError(
            f"{checkpoint.folder}/config.json describes a network that cannot be built: {error}"
        ) from error
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
