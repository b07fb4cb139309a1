"""Checkpoints: resolving, copying and loading."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from sparserve.models.bundle.text_tokenizer import TextTokenizer
from sparserve.models.encoders.checkpoint import adopt, load_classifier, resolve_checkpoint
from sparserve.models.errors import CheckpointError
from sparserve.models.files import sha256


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def test_checkpoint_digest_depends_on_the_content(tiny_checkpoint: Path, copy: Path) -> None:
    first, second = resolve_checkpoint(str(tiny_checkpoint)), resolve_checkpoint(str(copy))
    assert first.model_type == "bert"
    assert first.digest == second.digest
    (copy / "config.json").write_text((copy / "config.json").read_text().replace("0.2", "0.3"))
    assert resolve_checkpoint(str(copy)).digest != first.digest


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "merges.txt", "spiece.model"])
def test_checkpoint_digest_covers_tokenizer_files_only(copy: Path, name: str) -> None:
    before = resolve_checkpoint(str(copy)).digest
    (copy / name).write_text('{"do_lower_case": false}')
    assert resolve_checkpoint(str(copy)).digest != before
    before = resolve_checkpoint(str(copy)).digest
    (copy / "notes.txt").write_text("not part of the digest")
    assert resolve_checkpoint(str(copy)).digest == before


def test_adopt_writes_a_complete_tokenizer_and_no_other_files(copy: Path, tmp_path: Path) -> None:
    whole = resolve_checkpoint(str(copy)).tokenizer
    vocabulary = sorted(whole.get_vocab(), key=lambda word: int(whole.get_vocab()[word]))
    (copy / "vocab.txt").write_text("".join(f"{word}\n" for word in vocabulary))
    (copy / "tokenizer.json").unlink()
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    (copy / "api_key.txt").write_text("secret")
    (copy / "rows.json").write_text("[]")
    given = resolve_checkpoint(str(copy))
    (tmp_path / "adopted").mkdir()
    adopt(tmp_path / "adopted", given)
    adopted = resolve_checkpoint(str(tmp_path / "adopted"))
    texts = ["the Good movie", "a bad plot 7"]
    served = Tokenizer.from_file(str(adopted.folder / "tokenizer.json"))
    assert [served.encode(text).ids for text in texts] == given.tokenizer(texts)["input_ids"]
    assert served.encode("Good").ids != served.encode("good").ids, "the configuration counts"
    assert sha256(adopted.folder / "model.safetensors") == sha256(copy / "model.safetensors")
    assert not {"api_key.txt", "rows.json"} & {path.name for path in adopted.folder.iterdir()}


def test_checkpoint_tokenizer_truncates_as_the_service_does(copy: Path, tmp_path: Path) -> None:
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings |= {"truncation_side": "left", "padding_side": "left"}
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    given = resolve_checkpoint(str(copy))
    (tmp_path / "adopted").mkdir()
    adopt(tmp_path / "adopted", given)
    texts = ["the good movie was not bad", "a plot"]
    options = {"truncation": True, "max_length": 5, "padding": True}
    for checkpoint in (given, resolve_checkpoint(str(tmp_path / "adopted"))):
        trained = checkpoint.tokenizer(texts, **options)
        served = TextTokenizer(tmp_path / "adopted" / "tokenizer.json", 5).encode(texts)
        cut, padded = trained["input_ids"]
        assert cut == served[0].ids
        assert padded[: len(served[1])] == served[1].ids and not any(trained["attention_mask"][1][len(served[1]) :])


def test_resolve_checkpoint_refuses_a_decoder(copy: Path) -> None:
    (copy / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(CheckpointError, match=r"'gpt2' model, not an encoder.*bert"):
        resolve_checkpoint(str(copy))


@pytest.mark.parametrize("config", ['{"model_type": "no-such-model"}', "{", '{"model_type": 3}'])
def test_resolve_checkpoint_refuses_an_invalid_configuration(copy: Path, config: str) -> None:
    (copy / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        resolve_checkpoint(str(copy))


def test_resolve_checkpoint_refuses_pickled_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights"):
        resolve_checkpoint(str(copy))


def test_resolve_checkpoint_names_a_folder_inside_and_a_file(copy: Path) -> None:
    with pytest.raises(CheckpointError, match=f"give one of the folders in it, such as {copy}"):
        resolve_checkpoint(str(copy.parent))
    with pytest.raises(CheckpointError, match=r"is a file: give the folder with config.json"):
        resolve_checkpoint(str(copy / "config.json"))
    (copy / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match=r"model.safetensors is a Git LFS pointer"):
        resolve_checkpoint(str(copy))


def test_resolve_checkpoint_explains_missing_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        resolve_checkpoint(str(tmp_path))
    with pytest.raises(CheckpointError, match="not a folder here"):
        resolve_checkpoint("nobody/no-such-model")
    with pytest.raises(CheckpointError, match="neither a folder nor a Hub id"):
        resolve_checkpoint("not/a/hub/id")


def test_load_classifier_refuses_truncated_weights(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_classifier(copy, ("a", "b"), "single_label_classification")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_load_classifier_refuses_weights_that_are_not_finite(copy: Path, value: float) -> None:
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("intermediate.dense.weight"))
    weights[name][0, 0] = value
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{name} holds values that are not finite numbers"):
        load_classifier(copy, ("a", "b"), "single_label_classification")


def test_checkpoint_without_a_fast_tokenizer_is_refused(copy: Path) -> None:
    for path in copy.glob("*token*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="tokenizer"):
        _ = resolve_checkpoint(str(copy)).tokenizer


def test_load_classifier_initialises_the_head_from_the_seed(tiny_checkpoint: Path) -> None:
    labels, problem = ("a", "b"), "single_label_classification"
    models: list[Any] = [load_classifier(tiny_checkpoint, labels, problem, seed=seed) for seed in (1, 1, 2)]
    weights = [model.classifier.weight for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
