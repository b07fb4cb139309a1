"""`sparserve compress` with every recipe that ships, on tiny models: slow, so only `make test-thorough` runs it.

Each recipe runs with one architecture, each architecture with a recipe, and is killed once. `make test-architectures`
runs every recipe with every architecture, and compares the bundles with those of a run that nothing stops.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sparserve.cli import app
from sparserve.compression import job_options
from sparserve.models.bundle.bundle import SPARSE_MODEL, Bundle
from sparserve.models.bundle.inference import load_bundle
from sparserve.models.bundle.store import Store
from sparserve.models.data.loading import load_dataset
from sparserve.models.encoders.architectures.registry import ARCHITECTURES
from sparserve.models.encoders.checkpoint import load_classifier
from sparserve.models.pipeline.job import prepare
from sparserve.models.progress import PlainReporter
from sparserve.models.recipes.loading import load_recipe, shipped_recipes
from tests.support.models.small_recipes import small_fields

pytestmark = [pytest.mark.thorough, pytest.mark.usefixtures("no_memory_processes")]
SETTINGS = {
    "temperature_scaling": True,  # as most recipes have it: one baseline for all
    "evaluation.bootstrap_samples": 100,
    "measurement.seconds": 0.1,
    "measurement.batches": [1],
    "measurement.lengths": [8],
    "measurement.threads": 1,
    "student.save_steps": 2,
}
# Every structural family once; GTE, Jina v3, CamemBERT and XLM-R have the layers of others. The rest runs with BERT,
# whose teacher and dense graph these recipes share.
FAMILIES = {
    "distilbert": "deberta-v2",
    "group-lasso": "modernbert",
    "movement": "mpnet",
    "mutual-information": "nomic_bert",
    "obert": "electra",
    "platon": "distilbert",
    "smallest": "roberta",
}


class Killed(BaseException):
    """Ends a job as kill -9 does: nothing catches it."""


class Killing(PlainReporter):
    """Ends the job in its student: after the third step of training, or at once where there is none."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.in_student = False

    def begin(self, step: str) -> None:
        self.in_student = step == "student"
        if self.in_student and not self.steps:
            raise Killed

    def advance(self, done: int, total: int, note: str) -> None:
        if self.in_student and done >= self.steps:
            raise Killed


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Pair recipes and architectures."""
    recipes = shipped_recipes()
    if metafunc.config.getoption("--every-architecture"):
        pairs = [(name, model_type) for model_type in ARCHITECTURES for name in recipes]
    else:
        pairs = [(name, FAMILIES.get(name, "bert")) for name in recipes]
    metafunc.parametrize(("name", "model_type"), pairs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


def compress(name: str, fields: dict[str, Any], model: Path, data: Path, store: Path) -> str:
    """Run the command and return its output."""
    settings = [part for field, value in fields.items() for part in ("--set", f"{field}={json.dumps(value)}")]
    given = ["--model", str(model), "--data", str(data), "--task", "tiny", "--threads", "1", "--store", str(store)]
    result = CliRunner().invoke(app, ["compress", name, *given, *settings], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def assert_calibrated(bundle: Bundle, texts: Sequence[str]) -> None:
    """Check that the graph has the logits of the bundle's checkpoint, divided by the temperature of its manifest."""
    manifest, checkpoint = bundle.manifest, bundle.folder / "checkpoint"
    assert manifest.calibration is not None and manifest.calibration.temperature != 1
    served = load_bundle(bundle, threads=1)
    tokens = served.tokenizer.encode(texts)
    logits = served.classifier.logits(tokens) * manifest.calibration.temperature
    model = load_classifier(checkpoint, manifest.labels, manifest.problem_type, attention="eager")
    with torch.no_grad():
        rows = [model(input_ids=torch.tensor([row.ids])).logits[0].numpy() for row in tokens]
    np.testing.assert_allclose(logits, rows, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(logits.argmax(axis=1), np.argmax(rows, axis=1))


def test_compress_runs_every_shipped_recipe(
    name: str,
    model_type: str,
    folder: Path,
    make_checkpoint: Callable[..., Path],
    sentiment_csv: Path,
    request: pytest.FixtureRequest,
) -> None:
    recipe, model = load_recipe(name), make_checkpoint(model_type)
    fields, store = small_fields(recipe) | SETTINGS, Store(folder / model_type)
    options = job_options(
        sentiment_csv, recipe=name, model=model, task="tiny", store=store.root, threads=1, overrides=fields
    )
    with pytest.raises(Killed):
        prepare(options, PlainReporter()).execute(Killing(steps=3 if recipe.student.epochs else 0))
    unfinished = list((store.root / ".work" / "steps").glob(".student-*.unfinished/training/checkpoint-2"))
    assert len(unfinished) == bool(recipe.student.epochs)
    output = compress(name, fields, model, sentiment_csv, store.root)

    variants = [recipe.variant_name, f"{recipe.variant_name}-int8"]
    dense = store.open("tiny", "dense").manifest.sparsity.encoder_linear
    for variant in variants:
        manifest = store.open("tiny", variant).manifest
        assert manifest.evaluation is not None and manifest.evaluation.agreement is not None
        assert manifest.measurement is not None and manifest.measurement.latency
        assert manifest.sparsity.encoder_linear.nonzero < dense.nonzero
        # MPNet's bias of relative positions is the same for all layers, which need the same heads then.
        assert (SPARSE_MODEL in manifest.files) == (not (model_type == "mpnet" and recipe.squeeze))
        assert manifest.calibration is not None and manifest.calibration.rows == 12
        assert variant in output
    assert_calibrated(store.open("tiny", recipe.variant_name), load_dataset(sentiment_csv).train.texts[:8])
    # The baseline is the same whatever recipe is compared with it.
    assert [len(store.versions("tiny", variant)) for variant in ("dense", "dense-int8")] == [1, 1]
    if request.config.getoption("--every-architecture"):
        whole = Store(folder / f"{model_type}-whole")
        compress(name, fields, model, sentiment_csv, whole.root)
        for variant in ("dense", *variants):
            assert store.current("tiny", variant) == whole.current("tiny", variant)
