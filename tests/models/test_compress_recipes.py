"""`sparserve compress` with every recipe that ships, on a tiny model: slow, so only `make test-recipes` runs it."""

import pytest
from typer.testing import CliRunner

from models.bundle import SPARSE_MODEL
from models.cli import app
from models.recipe_files import load_recipe, shipped_recipes
from models.store import Store

pytestmark = pytest.mark.thorough
SMALL = {
    "max_length": 32,
    "teacher.epochs": 1,
    "teacher.batch_size": 16,
    "teacher.learning_rate": 1e-3,
    "teacher.freeze_embeddings": False,
    "teacher.precision": "fp32",
    "student.batch_size": 16,
    "student.precision": "fp32",
    "evaluation.bootstrap_samples": 100,
    "measurement.seconds": 0.1,
    "measurement.batches": [1],
    "measurement.lengths": [8],
    "measurement.threads": 1,
}


def small(name):
    recipe = load_recipe(name)
    fields = dict(SMALL)
    if recipe.student.epochs:
        fields["student.epochs"] = 1
    if recipe.student.layers:
        fields["student.layers"] = 1
    if recipe.student.hidden_size:
        fields |= {"student.hidden_size": 16, "student.intermediate_size": 24}
    if recipe.augmentation:
        fields |= {"augmentation.variants": 2, "augmentation.candidates": 5}
    if recipe.squeeze:
        fields["squeeze.calibration"] = 96
    return [part for name, value in fields.items() for part in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recipes")


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_is_one_command(name, folder, tiny_checkpoint, sentiment_csv):
    given = ["--model", str(tiny_checkpoint), "--data", str(sentiment_csv), "--task", "tiny", "--threads", "1"]
    result = CliRunner().invoke(
        app, ["compress", name, *given, "--store", str(folder / "store"), *small(name)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    recipe, store = load_recipe(name), Store(folder / "store")
    variants = [recipe.variant_name, f"{recipe.variant_name}-int8"]
    dense = store.open("tiny", "dense").manifest.sparsity.encoder_linear
    for variant in variants:
        manifest = store.open("tiny", variant).manifest
        assert manifest.evaluation.agreement is not None
        assert manifest.measurement.latency
        assert manifest.sparsity.encoder_linear.nonzero < dense.nonzero
        assert SPARSE_MODEL in manifest.files
        assert variant in result.stdout
    # The baseline is the same whatever recipe is compared with it.
    assert [len(store.versions("tiny", variant)) for variant in ("dense", "dense-int8")] == [1, 1]
