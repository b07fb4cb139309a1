"""Saved weights that belong to another network than the one that would load them."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model

from sparserve.models.encoders.checkpoint import load_classifier, resolve_checkpoint
from sparserve.models.encoders.weights import INDEX, WEIGHTS, check_weights, read_tensors, saved_tensors
from sparserve.models.errors import CheckpointError, RecipeError
from sparserve.models.pipeline.preflight import check_recipe
from sparserve.models.recipes.loading import load_recipe
from tests.support.models.exporting import ENCODERS

LABELS, PROBLEM = ("a", "b"), "single_label_classification"
LAYER = "encoder.layer.1.attention.self"
Weights = dict[str, torch.Tensor]


@pytest.fixture
def folder(make_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy of a tiny BERT, whose names have no prefix."""
    return shutil.copytree(make_checkpoint("bert"), tmp_path / "bert")


def change(folder: Path, changed: Callable[[Weights], Weights]) -> None:
    save_file(changed(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def refused(folder: Path, recipe: Path) -> str:
    """Return the message with which both the checks before a job and the loading refuse a checkpoint."""
    with pytest.raises(CheckpointError) as checked:
        check_recipe(resolve_checkpoint(str(folder)), None, load_recipe(recipe))
    with pytest.raises(CheckpointError):
        load_classifier(folder, LABELS, PROBLEM)
    return str(checked.value)


def renamed(beginning: str) -> Callable[[Weights], Weights]:
    return lambda weights: {beginning + name: weight for name, weight in weights.items()}


def added(name: str, weight: torch.Tensor | None = None) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, name: torch.ones(3, 4) if weight is None else weight}


def quantised(weights: Weights) -> Weights:
    return {**weights, f"{LAYER}.query.weight": weights[f"{LAYER}.query.weight"].to(torch.int8)}


def pruned(weights: Weights) -> Weights:
    weight = weights.pop(f"{LAYER}.query.weight")
    return {**weights, f"{LAYER}.query.weight_orig": weight, f"{LAYER}.query.weight_mask": torch.ones_like(weight)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (added(f"{LAYER}.distance_embedding.weight"), "1 of the saved weights have no place .*relative positions"),
        (added("encoder.layer.2.output.dense.weight"), "encoder.layer.2.output.dense.weight.*do not fit config.json"),
        (added("bert.encoder.layer.2.output.dense.weight"), "no place in the network.*do not fit config.json"),
        (added("classifier.lora_A.default.weight"), r"an adapter that is not merged.*merge_and_unload"),
        (added(f"{LAYER}.query.lora_A.weight"), r"an adapter that is not merged.*merge_and_unload"),
        (added("encoder.layer.0.output.adapters.x.up.weight"), "adapter layers"),
        (added(f"{LAYER}.query.weight_scale_inv"), "weights are quantised"),
        (added(f"bert.{LAYER}.query.weight", torch.ones(32, 32)), f"holds bert.{LAYER}.query.weight twice"),
        (renamed("_orig_mod."), r"compiled by torch.compile.*model\._orig_mod\.save_pretrained"),
        (renamed("_orig_mod.bert."), "compiled by torch.compile"),
        (renamed("module."), r"from a distributed network.*model\.module\.save_pretrained"),
        (renamed("module.bert."), "from a distributed network"),
        (renamed("_fsdp_wrapped_module.bert."), "from a sharded network"),
        (renamed("base_model.model.bert."), "an adapter that is not merged"),
        (renamed("model.bert."), r"its names begin with 'model\.', so it was saved from another module around it"),
        (renamed("0.auto_model."), r"its names begin with '0\.auto_model\.'"),
        (renamed("roberta."), r"its names begin with 'roberta\.'"),
        (quantised, "holds numbers of the type I8"),
        (pruned, r"saved while it was pruned.*torch\.nn\.utils\.prune\.remove"),
    ],
)
def test_check_weights_refuses(
    changed: Callable[[Weights], Weights], message: str, folder: Path, tiny_recipe: Path
) -> None:
    change(folder, changed)
    assert re.search(message, refused(folder, tiny_recipe)), refused(folder, tiny_recipe)


@pytest.mark.parametrize("model_type", ENCODERS)
def test_check_weights_refuses_fewer_layers_in_the_configuration(
    model_type: str, make_checkpoint: Callable[..., Path], tmp_path: Path, tiny_recipe: Path
) -> None:
    folder = shutil.copytree(make_checkpoint(model_type), tmp_path / "fewer")
    config = json.loads((folder / "config.json").read_text())
    name = "n_layers" if model_type == "distilbert" else "num_hidden_layers"
    kinds = {"layer_types": config["layer_types"][:1]} if "layer_types" in config else {}
    (folder / "config.json").write_text(json.dumps({**config, **kinds, name: 1}))
    assert "of the saved weights have no place in the network" in refused(folder, tiny_recipe)


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.position_ids", "bert.embeddings.position_ids", "cls.predictions.decoder.weight",
        "cls.seq_relationship.bias", "lm_head.dense.weight", "qa_outputs.weight", "classifier.weight",
    ],
)  # fmt: skip
def test_check_weights_accepts_parts_beside_the_encoder(name: str, folder: Path, tiny_recipe: Path) -> None:
    change(folder, added(name))
    check_recipe(resolve_checkpoint(str(folder)), None, load_recipe(tiny_recipe))
    load_classifier(folder, LABELS, PROBLEM)


def test_check_weights_accepts_poolers_that_are_missing_as_a_whole(folder: Path, tiny_recipe: Path) -> None:
    change(folder, lambda weights: {name: weight for name, weight in weights.items() if "pooler" not in name})
    check_recipe(resolve_checkpoint(str(folder)), None, load_recipe(tiny_recipe))
    change(folder, added("pooler.dense.bias", torch.zeros(32)))
    assert "bert.pooler.dense.weight" in refused(folder, tiny_recipe)


@pytest.mark.parametrize("model_type", ["gte", "jina_embeddings_v3", "nomic_bert"])
def test_check_weights_knows_the_names_that_transformers_changes(
    model_type: str, make_checkpoint: Callable[..., Path], tmp_path: Path, tiny_recipe: Path
) -> None:
    """transformers renames and splits weights of these families, and writes them in their old form again."""
    old, new = (shutil.copytree(make_checkpoint(model_type), tmp_path / name) for name in ("old", "new"))
    model: Any = load_classifier(old, LABELS, PROBLEM)
    save_model(model, str(tmp_path / "model.safetensors"))  # refuses parts of a larger tensor
    model.save_pretrained(new, save_original_format=False)
    fused = {name for name in load_file(old / WEIGHTS) if "qkv" in name.lower()}
    assert fused and not fused & load_file(new / WEIGHTS).keys()
    ids = torch.arange(5, 12)[None]
    for folder in (old, new):
        check_recipe(resolve_checkpoint(str(folder)), None, load_recipe(tiny_recipe))
        parts = check_weights(folder, model).loaded
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in read_tensors(parts).items())
        assert len(parts) > len(model.base_model.state_dict()) - 3  # all but the pooler
        base: Any = load_classifier(folder, LABELS, PROBLEM).base_model
        assert torch.equal(base(ids).last_hidden_state, model.base_model(ids).last_hidden_state)


def test_check_weights_knows_the_prefix_of_the_code_of_gte(
    make_checkpoint: Callable[..., Path], tmp_path: Path, tiny_recipe: Path
) -> None:
    folder = shutil.copytree(make_checkpoint("gte"), tmp_path / "gte")
    change(folder, renamed("new."))
    check_recipe(resolve_checkpoint(str(folder)), None, load_recipe(tiny_recipe))
    load_classifier(folder, LABELS, PROBLEM)


def test_check_weights_knows_the_legacy_names_of_norms(folder: Path, tiny_recipe: Path) -> None:
    def legacy(weights: Weights) -> Weights:
        weights["embeddings.LayerNorm.bias"] += 3
        old = {name: re.sub(r"LayerNorm\.(\w+)", _legacy, name) for name in weights}
        return {old[name]: weight for name, weight in weights.items()}

    whole: Any = load_classifier(folder, LABELS, PROBLEM)
    bias = whole.bert.embeddings.LayerNorm.bias.detach().clone()  # it may be a view of the file
    change(folder, legacy)
    check_recipe(resolve_checkpoint(str(folder)), None, load_recipe(tiny_recipe))
    model: Any = load_classifier(folder, LABELS, PROBLEM)
    assert torch.equal(model.bert.embeddings.LayerNorm.bias, bias + 3)


def _legacy(modern: re.Match[str]) -> str:
    return "LayerNorm." + {"weight": "gamma", "bias": "beta"}[modern[1]]


@pytest.fixture
def teacher(folder: Path) -> Path:
    """A fine-tuned BERT with its pooler and head."""
    load_classifier(folder, LABELS, PROBLEM).save_pretrained(folder)  # type: ignore[operator]
    return folder


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda weights: {name: w for name, w in weights.items() if "pooler" not in name}, "no saved weights .*pooler"),
        (lambda weights: {name: w for name, w in weights.items() if name != "classifier.bias"}, "no saved weights"),
        (added("crf.transitions"), "weights beside the encoder that the network has no place for, such as crf"),
    ],
)
def test_check_recipe_refuses_a_teacher_with_another_head(
    changed: Callable[[Weights], Weights], message: str, teacher: Path, tiny_recipe: Path
) -> None:
    recipe, given = load_recipe(tiny_recipe), resolve_checkpoint(str(teacher))
    check_recipe(given, given, recipe)
    change(teacher, changed)
    with pytest.raises(CheckpointError, match=message):
        check_recipe(given, given, recipe)
    check_recipe(given, None, recipe)  # its encoder can be fine-tuned


@pytest.mark.parametrize(("model_type", "head"), [("deberta-v2", "pooler."), ("modernbert", "head.dense")])
def test_check_recipe_refuses_later_families_without_head_or_positions(
    model_type: str, head: str, make_checkpoint: Callable[..., Path], tmp_path: Path, tiny_recipe: Path
) -> None:
    folder, recipe = shutil.copytree(make_checkpoint(model_type), tmp_path / model_type), load_recipe(tiny_recipe)
    load_classifier(folder, LABELS, PROBLEM).save_pretrained(folder)  # type: ignore[operator]
    given = resolve_checkpoint(str(folder))
    check_recipe(given, given, recipe)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(json.dumps({**json.loads(config), "max_position_embeddings": 9}))
    shorter = resolve_checkpoint(str(folder))
    with pytest.raises(RecipeError, match="has positions for 9: add --set max_length=9"):
        check_recipe(shorter, shorter, recipe)
    (folder / "config.json").write_text(config)
    change(folder, lambda weights: {name: weight for name, weight in weights.items() if head not in name})
    with pytest.raises(CheckpointError, match=f"no saved weights .*{re.escape(head)}"):
        check_recipe(given, given, recipe)
    check_recipe(given, None, recipe)


def test_check_recipe_refuses_a_teacher_for_another_kind_of_task(teacher: Path, tiny_recipe: Path) -> None:
    config = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps({**config, "architectures": ["BertForTokenClassification"]}))
    given = resolve_checkpoint(str(teacher))
    with pytest.raises(CheckpointError, match=r"is a BertForTokenClassification by its config\.json"):
        check_recipe(given, given, load_recipe(tiny_recipe))


def test_saved_tensors_reads_the_shards_of_the_index_alone(folder: Path, tiny_recipe: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[:10], "model-00002-of-00002.safetensors": names[10:]}
    for shard, part in shards.items():
        save_file({name: weights[name] for name in part}, folder / shard, metadata={"format": "pt"})
    (folder / WEIGHTS).unlink()
    save_file({"stray": torch.ones(1)}, folder / "optimizer.safetensors")
    with pytest.raises(CheckpointError, match=rf"neither {WEIGHTS} nor {INDEX}, only model-00001-of-00002"):
        resolve_checkpoint(str(folder))
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, **index}))
    assert sorted(tensor.name for tensor in saved_tensors(folder)) == names
    check_recipe(resolve_checkpoint(str(folder)), None, load_recipe(tiny_recipe))
    load_classifier(folder, LABELS, PROBLEM)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names 'model-00002-of-00002\.safetensors', which is not a file"):
        resolve_checkpoint(str(folder))


@pytest.mark.parametrize("index", ["[]", "{", '{"weight_map": []}', '{"weight_map": {"a": 3}}'])
def test_saved_tensors_refuses_an_index_that_is_none(index: str, folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(index)
    with pytest.raises(CheckpointError, match="is not an index of weights"):
        resolve_checkpoint(str(folder))


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/hostname", ""])
def test_saved_tensors_refuses_shards_elsewhere(name: str, folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / WEIGHTS)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="which is not a file beside it"):
        resolve_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model.bin", "pickled weights"),
        ("tf_model.h5", "only weights of TensorFlow or Flax"),
        ("flax_model.msgpack", "only weights of TensorFlow or Flax"),
        ("notes.txt", "has no weights"),
    ],
)
def test_saved_tensors_names_other_formats(name: str, message: str, folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / name)
    with pytest.raises(CheckpointError, match=message):
        resolve_checkpoint(str(folder))
