"""`sparserve compress` with every recipe that ships, on a tiny model: slow, so only `make test-thorough` runs it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparserve.cli import app
from sparserve.models.bundle.bundle import SPARSE_MODEL
from sparserve.models.bundle.store import Store
from sparserve.models.recipes.loading import load_recipe, shipped_recipes
from tests.support.models.small_recipes import small_fields

pytestmark = pytest.mark.thorough
SETTINGS = {
    "temperature_scaling": True,  # as most recipes have it: one baseline for all
    "evaluation.bootstrap_samples": 100,
    "measurement.seconds": 0.1,
    "measurement.batches": [1],
    "measurement.lengths": [8],
    "measurement.threads": 1,
}


def settings(name: str) -> list[str]:
    fields = small_fields(load_recipe(name)) | SETTINGS
    return [part for field, value in fields.items() for part in ("--set", f"{field}={json.dumps(value)}")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@pytest.mark.parametrize("name", shipped_recipes())
def test_compress_runs_every_shipped_recipe(
    name: str, folder: Path, tiny_checkpoint: Path, sentiment_csv: Path
) -> None:
    given = ["--model", str(tiny_checkpoint), "--data", str(sentiment_csv), "--task", "tiny", "--threads", "1"]
    result = CliRunner().invoke(
        app, ["compress", name, *given, "--store", str(folder / "store"), *settings(name)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    recipe, store = load_recipe(name), Store(folder / "store")
    variants = [recipe.variant_name, f"{recipe.variant_name}-int8"]
    dense = store.open("tiny", "dense").manifest.sparsity.encoder_linear
    for variant in variants:
        manifest = store.open("tiny", variant).manifest
        assert manifest.evaluation is not None and manifest.evaluation.agreement is not None
        assert manifest.measurement is not None and manifest.measurement.latency
        assert manifest.sparsity.encoder_linear.nonzero < dense.nonzero
        assert SPARSE_MODEL in manifest.files
        assert manifest.calibration is not None and manifest.calibration.rows == 12
        assert variant in result.stdout
    # The baseline is the same whatever recipe is compared with it.
    assert [len(store.versions("tiny", variant)) for variant in ("dense", "dense-int8")] == [1, 1]
