"""Tiny random models and data that every test can have; nothing is downloaded."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Threads that wait for one another while other workers have the processors cost far more than they give.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from sparserve.kernels.library import Library, LibraryError, find_library
from tests.support.shared_folders import made_once, shared_root

# No test measures time: its own deadline of 200 ms for an example fails on a busy machine.
hypothesis.settings.register_profile("no deadline", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("no deadline")

GOOD = ("good", "great", "fine", "love", "bright")
BAD = ("bad", "awful", "dull", "hate", "long")
FILLER = (
    "film",
    "movie",
    "plot",
    "actor",
    "scene",
    "short",
    "the",
    "a",
    "is",
    "was",
    "and",
    "but",
    "not",
    "very",
    "of",
)
WORDS = [*GOOD, *BAD, *FILLER]


# Fields of configurations besides the sizes: ModernBERT's band is short, DeBERTa's are those of v3.
FAMILIES: dict[str, dict[str, Any]] = {
    "modernbert": {"local_attention": 16, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options."""
    parser.addoption(
        "--framework",
        action="store_true",
        help="test the service without its fast path: the tests that depend on it",
    )
    parser.addoption("--every-architecture", action="store_true", help="test every recipe with every architecture")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the files with the longest tests first: the processes, which take file by file, then end together.

    With --framework leave out the tests without the fixture `fast_path`: the option changes nothing for them.
    """
    if config.getoption("framework"):
        others = [item for item in items if "fast_path" not in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if "fast_path" in getattr(item, "fixturenames", ())]
    marks = ("thorough", "slow")
    ranks: dict[Path, int] = {}
    for item in items:
        rank = next((rank for rank, mark in enumerate(marks) if item.get_closest_marker(mark)), len(marks))
        ranks[item.path] = min(rank, ranks.get(item.path, rank))
    items.sort(key=lambda item: ranks[item.path])


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a maker of random two-layer checkpoints, one a model type, made once a session."""
    from transformers import CONFIG_MAPPING

    made: dict[str, Path] = {}

    def make(model_type: str = "bert") -> Path:
        if model_type not in CONFIG_MAPPING:
            pytest.skip(f"this release of transformers has no {model_type}")
        if model_type not in made:
            folder = f"tiny-{model_type}"
            root = made_once(
                tmp_path_factory, f"checkpoint-{model_type}", lambda f: _write_checkpoint(f / folder, model_type)
            )
            made[model_type] = root / folder
        return made[model_type]

    return make


@pytest.fixture(scope="session")
def sparse_runtime() -> Library:
    """The sparse runtime's library; skips where it was not built (`kernels/test_build.py` sees that it was)."""
    try:
        return find_library()
    except LibraryError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tiny_checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    """A random BERT of two layers."""
    return make_checkpoint("bert")


@pytest.fixture(scope="session")
def sentiment_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 rows of a task that a tiny model can learn: the label follows from one word."""
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    lines = ["text,label"]
    for row in range(120):
        words = GOOD if row % 2 else BAD
        filler = " ".join(FILLER[(row * 7 + offset * 3) % len(FILLER)] for offset in range(2 + row % 5))
        lines.append(f"the {words[row // 2 % 5]} {filler} {row},{'positive' if row % 2 else 'negative'}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SparseBERT with all its losses, in seconds."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(
        """
name: tiny
max_length: 32
teacher: {epochs: 6, batch_size: 8, learning_rate: 3.0e-3, save_steps: 20, precision: fp32}
student: {epochs: 4, batch_size: 8, learning_rate: 3.0e-3, save_steps: 10, precision: fp32, start: pretrained}
pruning: {sparsity: 0.6, updates: 10}
distillation: {}
evaluation: {bootstrap_samples: 100}
measurement: {seconds: 0.5, batches: [1], lengths: [8], threads: 1}
""",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the graphs that were traced in this run; exports of this process use it."""
    from tests.support.models.shared_templates import share_templates

    folder = shared_root(tmp_path_factory) / "templates"
    share_templates(folder)
    return folder


@pytest.fixture(scope="session")
def compress_tiny(
    tiny_checkpoint: Path, tiny_recipe: Path, sentiment_csv: Path, templates: Path
) -> Callable[..., list[str]]:
    """Return a maker of command lines that compress the tiny checkpoint into a store."""

    def command(store: Path, *extra: str) -> list[str]:
        given = ["--model", str(tiny_checkpoint), "--data", str(sentiment_csv), "--task", "tiny", "--threads", "1"]
        return ["compress", str(tiny_recipe), *given, "--store", str(store), *extra]

    return command


@pytest.fixture
def no_memory_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the process for each graph that measures its memory; `tiny_store` and the code blocks have them."""
    monkeypatch.setattr("sparserve.models.evaluation.latency.resident_bytes", lambda graph, **_: 10_000_000)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory, compress_tiny: Callable[..., list[str]]) -> Path:
    """A store that the real job made: dense, dense-int8, sparse60 and sparse60-int8 of the task `tiny`."""
    from typer.testing import CliRunner

    from sparserve.cli import app

    def build(folder: Path) -> None:
        result = CliRunner().invoke(app, compress_tiny(folder / "store"), catch_exceptions=False)
        assert result.exit_code == 0, result.output

    return made_once(tmp_path_factory, "tiny-store", build) / "store"


def _write_checkpoint(folder: Path, model_type: str) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = special + WORDS + [chr(c) for c in range(ord("a"), ord("z") + 1)] + [f"##{d}" for d in "0123456789"]
    pieces += [d for d in "0123456789.,!?"] + [f"##{chr(c)}" for c in range(ord("a"), ord("z") + 1)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    untyped = ("distilbert", "gte", "jina_embeddings_v3", "roberta", "mpnet", "modernbert")
    names = ["input_ids", "attention_mask"] if model_type in untyped else None
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=names or ["input_ids", "token_type_ids", "attention_mask"],
    )
    sizes: dict[str, Any] = {"vocab_size": len(vocabulary), "pad_token_id": 0, "max_position_embeddings": 72}
    sizes |= FAMILIES.get(model_type, {})
    if model_type == "distilbert":
        shape = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}
    else:
        shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    if model_type == "electra":
        shape["embedding_size"] = 32
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **sizes, **shape, initializer_range=0.2))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and LayerNorms that do something
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
