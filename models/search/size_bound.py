"""Lower bounds of the size of a file, known before any training.

No level of a ladder makes the token table smaller, and the table is most of a small model.
"""

from transformers import PreTrainedModel

from sparserve.models.encoders.checkpoint import Checkpoint
from sparserve.models.pipeline.inputs import starting_from
from sparserve.models.pipeline.preflight import outline
from sparserve.models.recipes.schema import Embeddings, Quantization, Recipe, Student

FLOAT_BITS = 32


def least_bytes(checkpoint: Checkpoint, teacher: Checkpoint | None, recipe: Recipe) -> int:
    """Return the bytes of the token table in the smallest file of a recipe: a lower bound of the file's size.

    0 if the recipe makes the table smaller (fewer tokens, a lower rank, fewer hidden dimensions), since only a run can
    tell how small.

    Raises:
        RecipeError: the checkpoint cannot be given the student's shape.
    """
    narrowed = recipe.squeeze is not None and recipe.squeeze.hidden < 1
    if narrowed or recipe.embeddings != Embeddings():
        return 0
    return _table_bytes(starting_from(checkpoint, teacher, recipe), recipe.student, recipe.quantization)


def least_dense_bytes(checkpoint: Checkpoint, teacher: Checkpoint | None, recipe: Recipe) -> int:
    """Return the bytes of the token table in the int8 file of the dense baseline, which every run makes."""
    return _table_bytes(teacher or checkpoint, Student(), recipe.baseline_quantization)


def _table_bytes(start: Checkpoint, student: Student, quantization: Quantization) -> int:
    network = outline(start, student)
    assert isinstance(network, PreTrainedModel)
    rows, width = network.get_input_embeddings().weight.shape
    bits = quantization.embedding_bits if quantization.enabled and quantization.embeddings else FLOAT_BITS
    return int(rows * width * bits // 8)
