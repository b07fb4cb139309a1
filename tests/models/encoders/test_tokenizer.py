"""Tokenizers that are missing, empty, or need code or packages."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from sparserve.models.encoders.tokenizer import read_tokenizer
from sparserve.models.errors import CheckpointError, EnvironmentFault

WORDS = ("the", "good", "bad", "movie", "plot", "was", "not", "very", "long", "short")


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of SentencePiece."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("sentencepiece")
    lines = [" ".join(WORDS[(row * step) % len(WORDS)] for step in range(1, 7)) for row in range(200)]
    (folder / "text.txt").write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "m"), vocab_size=60, hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    return folder / "m.model"


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder with the configuration of an encoder alone."""
    model_type = getattr(request, "param", "bert")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    return tmp_path


@pytest.mark.parametrize("folder", ["xlm-roberta", "camembert"], indirect=True)
def test_read_tokenizer_converts_a_model_of_sentencepiece(folder: Path, sentencepiece_model: Path) -> None:
    import sentencepiece

    shutil.copy(sentencepiece_model, folder / "sentencepiece.bpe.model")
    tokenizer = read_tokenizer(folder)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model)).encode(
        "the good movie", out_type=str
    )
    ids = tokenizer("the good movie")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", *pieces, "</s>"]


@pytest.mark.parametrize(("module", "package"), [("sentencepiece", "sentencepiece"), ("google.protobuf", "protobuf")])
@pytest.mark.parametrize("folder", ["xlm-roberta", "camembert"], indirect=True)
def test_read_tokenizer_names_the_package_that_is_missing(
    module: str, package: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "sentencepiece.bpe.model").write_bytes(b"")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnvironmentFault, match=rf"and {package}, which converts it, .* \"sparserve\[compress\]\""):
        read_tokenizer(folder)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("bert", "vocab.json"),
        ("bert", "sentencepiece.bpe.model"),
        ("roberta", "vocab.txt"),
        ("xlm-roberta", "vocab.txt"),
    ],
    indirect=["folder"],
)
def test_read_tokenizer_refuses_a_vocabulary_of_another_family(
    folder: Path, name: str, sentencepiece_model: Path
) -> None:
    (folder / name).write_bytes(sentencepiece_model.read_bytes() if name.endswith(".model") else b"[PAD]\n[UNK]\nthe")
    with pytest.raises(CheckpointError, match=r"has no token besides .* belongs to another kind of network"):
        read_tokenizer(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"auto_map": {"AutoTokenizer": ["tokenization.Other", null]}}', "auto_map is set"),
        ("{", "cannot be read"),
        ("[]", "that transformers cannot read"),
        ('{"tokenizer_class": 3}', "that transformers cannot read"),
        ('{"pad_token": null}', "no fast tokenizer with a padding token"),
    ],
)
def test_read_tokenizer_refuses_a_configuration(folder: Path, config: str, message: str) -> None:
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\n")
    read_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text(config)
    with pytest.raises(CheckpointError, match=message):
        read_tokenizer(folder)
