"""LoRA adapters, merged into their base model with peft."""

import json
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from sparserve.models.encoders.adapters import is_adapter, merge_adapter, merge_note
from sparserve.models.encoders.checkpoint import load_classifier, resolve_checkpoint
from sparserve.models.errors import CheckpointError

# peft reads attributes of transformers that are deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
LABELS = ("down", "flat", "up")


@pytest.fixture(scope="module")
def trained(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A network with a random adapter and head, and the adapter's folder."""
    network = load_classifier(tiny_checkpoint, LABELS, "single_label_classification")
    settings = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    model = peft.get_peft_model(network, settings)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_()
    folder = tmp_path_factory.mktemp("adapter") / "my-adapter"
    model.save_pretrained(str(folder))
    return model.eval(), folder


@pytest.fixture
def copy(trained: tuple[Any, Path], tmp_path: Path) -> Any:
    """Return a maker of a copy of the adapter with changed settings."""

    def make(**changes: Any) -> Path:
        folder = tmp_path / "changed"
        folder.mkdir()
        for path in trained[1].iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
        return folder

    return make


def test_merge_adapter_computes_the_same_as_the_adapted_network(trained: tuple[Any, Path], tmp_path: Path) -> None:
    model, folder = trained
    assert is_adapter(str(folder)) and not is_adapter(str(tmp_path))
    merged = merge_adapter(folder, tmp_path)
    checkpoint = resolve_checkpoint(str(merged))
    assert checkpoint.label_names == ("LABEL_0", "LABEL_1", "LABEL_2")
    network = load_classifier(merged, LABELS, "single_label_classification")
    ids = torch.arange(5, 25).reshape(2, 10)
    torch.testing.assert_close(network(ids).logits, model(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
    assert merge_adapter(folder, tmp_path) == merged


def test_merge_note_names_the_base_and_what_is_not_used(copy: Any) -> None:
    folder = copy(base_model_name_or_path="a-base")
    assert merge_note(folder) == f"{folder} holds an adapter: it is merged into its base model a-base"
    (folder / "config.json").write_text("{}")
    assert "the folder's own config.json and the weights of that network are not used" in merge_note(folder)


def test_merge_adapter_names_the_package_that_it_needs(
    trained: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(CheckpointError, match="`pip install peft` and run the same command again"):
        merge_adapter(trained[1], tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "an adapter of type IA3; only LORA is merged here"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4', which changes the base model before training"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
        ({"target_modules": ["key"]}, "does not fit .* as a classifier, which differ in"),
    ],
)
def test_merge_adapter_refuses_other_adapters(copy: Any, tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        merge_adapter(copy(**changes), tmp_path)


def test_merge_adapter_reads_safetensors_only(copy: Any, tmp_path: Path) -> None:
    folder = copy()
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"has no adapter_model.safetensors; other files of weights may run code"):
        merge_adapter(folder, tmp_path)
