"""Every shipped recipe on a tiny model: the same steps with few rows and small numbers."""

import json
from pathlib import Path

import pytest
import torch

from sparserve.models.data.loading import load_dataset
from sparserve.models.encoders.checkpoint import load_classifier, resolve_checkpoint
from sparserve.models.encoders.layers import encoder_linears
from sparserve.models.pipeline.execution import train_networks
from sparserve.models.pipeline.inputs import Job
from sparserve.models.pipeline.plan import plan_job
from sparserve.models.pipeline.preflight import check_recipe
from sparserve.models.pipeline.step_cache import Context, Workspace
from sparserve.models.progress import PlainReporter
from sparserve.models.recipes.loading import load_recipe, shipped_recipes
from tests.support.models.small_recipes import small_fields


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("recipes"))


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipe_builds_a_network(
    name: str, workspace: Workspace, tiny_checkpoint: Path, sentiment_csv: Path
) -> None:
    recipe = load_recipe(name, overrides=small_fields(load_recipe(name)))
    checkpoint = resolve_checkpoint(str(tiny_checkpoint))
    check_recipe(checkpoint, None, recipe)
    dataset = load_dataset(sentiment_csv)
    plan = plan_job(Job("tiny", recipe, checkpoint, None, dataset, "reviews", 0, 1))
    _, student = train_networks(plan, Context(workspace, PlainReporter()))

    model = load_classifier(student.folder, dataset.label_names, dataset.problem_type)
    weights = [linear.weight for linear in encoder_linears(model).values()]
    if recipe.pruning:
        sparsity, total = recipe.pruning.sparsity, sum(weight.numel() for weight in weights)
        block = recipe.pruning.block[0] * recipe.pruning.block[1]
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        assert abs(zeros - sparsity * total) <= block * len(weights)
        assert json.loads((student.folder / "pruning.json").read_text())["pruning"]["method"] == recipe.pruning.method
    elif recipe.squeeze or recipe.student.layers:
        whole = encoder_linears(load_classifier(tiny_checkpoint, dataset.label_names, dataset.problem_type))
        assert sum(weight.numel() for weight in weights) < sum(linear.weight.numel() for linear in whole.values())
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
