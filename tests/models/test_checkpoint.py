import json
import shutil

import pytest
import torch

from models.checkpoint import load_classifier, resolve_checkpoint
from models.errors import CheckpointError


@pytest.fixture
def copy(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def test_a_checkpoint_is_known_by_its_content(tiny_checkpoint, copy):
    first, second = resolve_checkpoint(str(tiny_checkpoint)), resolve_checkpoint(str(copy))
    assert first.model_type == "bert"
    assert first.digest == second.digest
    (copy / "config.json").write_text((copy / "config.json").read_text().replace("0.2", "0.3"))
    assert resolve_checkpoint(str(copy)).digest != first.digest


def test_a_decoder_is_refused_by_name(copy):
    (copy / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(CheckpointError, match=r"'gpt2' model, not an encoder.*bert"):
        resolve_checkpoint(str(copy))


@pytest.mark.parametrize("config", ['{"model_type": "no-such-model"}', "{", '{"model_type": 3}'])
def test_a_configuration_that_is_none_is_refused(copy, config):
    (copy / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        resolve_checkpoint(str(copy))


def test_pickled_weights_are_refused(copy):
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights"):
        resolve_checkpoint(str(copy))


def test_an_empty_folder_and_a_missing_hub_model_are_explained(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        resolve_checkpoint(str(tmp_path))
    with pytest.raises(CheckpointError, match="no folder here"):
        resolve_checkpoint("nobody/no-such-model")
    with pytest.raises(CheckpointError, match="neither a folder nor a Hub id"):
        resolve_checkpoint("not/a/hub/id")


def test_truncated_weights_are_refused(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_classifier(copy, ("a", "b"), "single_label_classification")


def test_a_checkpoint_without_a_fast_tokenizer_is_refused(copy):
    for path in copy.glob("*token*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="tokenizer"):
        resolve_checkpoint(str(copy)).tokenizer()


def test_the_head_is_drawn_from_the_seed(tiny_checkpoint):
    heads = [load_classifier(tiny_checkpoint, ("a", "b"), "single_label_classification", seed=s) for s in (1, 1, 2)]
    weights = [model.classifier.weight for model in heads]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
