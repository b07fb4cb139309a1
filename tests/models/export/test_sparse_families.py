"""Packed encoders of later families than BERT's against torch and the graphs that they were made from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
)

from sparserve.kernels.library import Library
from sparserve.models.bundle.inference import OnnxClassifier
from sparserve.models.errors import CheckpointError
from sparserve.models.export.onnx_export import export_onnx
from sparserve.models.export.relative_positions import relative_positions
from sparserve.models.export.sparse_graph import write_sparse_graph
from tests.support.models.golden import assert_answers_as_pipeline

MAX_LENGTH = 150
SIZES: dict[str, Any] = {
    "vocab_size": 120, "hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 2, "num_attention_heads": 3,
    "num_labels": 3, "pad_token_id": 0, "initializer_range": 0.3, "attn_implementation": "eager",
}  # fmt: skip
LINEAR: dict[str, Any] = {"rope_type": "linear", "factor": 2.5}


def modernbert(**changes: Any) -> Any:
    """Return a classifier whose bands are shorter than its texts; its second and third layer have them."""
    bands = {"num_hidden_layers": 4, "global_attn_every_n_layers": 3, "local_attention": 16}
    return ModernBertForSequenceClassification(
        ModernBertConfig(**{**SIZES, **bands}, max_position_embeddings=MAX_LENGTH, **changes)
    )


def deberta(**changes: Any) -> Any:
    """Return a classifier whose longest distances share embeddings."""
    settings: dict[str, Any] = {
        "relative_attention": True, "position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0, "pooler_hidden_size": 36,
        "max_position_embeddings": 256, "max_relative_positions": -1,
    }  # fmt: skip
    return DebertaV2ForSequenceClassification(DebertaV2Config(**SIZES, **{**settings, **changes}))


def rotary_bert(model_type: str, **changes: Any) -> Any:
    """Return a classifier of a family that some releases of transformers lack."""
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"this release of transformers has no {model_type}")
    return AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(model_type, **SIZES, max_position_embeddings=MAX_LENGTH, **changes)
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "modernbert": modernbert,
    "modernbert, mean, scaled, with biases": lambda: modernbert(
        classifier_pooling="mean",
        attention_bias=True,
        mlp_bias=True,
        norm_bias=True,
        rope_parameters={
            "full_attention": {**LINEAR, "rope_theta": 160_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    ),
    # Those of v3 are packed by the tests of `ENCODERS`.
    "deberta-v2, with the parts of v2": lambda: deberta(
        position_biased_input=True, type_vocab_size=2, embedding_size=20
    ),
    "gte, scaled": lambda: rotary_bert("gte", rope_parameters={**LINEAR, "rope_theta": 160_000.0}),
    "jina_embeddings_v3": lambda: rotary_bert("jina_embeddings_v3"),
}


def sparse(model: Any) -> Any:
    """Set most weights to zero and move norms and biases from their initial values."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.mul_(1.5 * (torch.rand(parameter.shape, generator=generator) < 0.4))
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_sparse_graph_packs_family(
    name: str, sparse_runtime: Library, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = sparse(FAMILIES[name]())
    source = tmp_path / "model.onnx"
    export_onnx(
        model,
        source,
        input_names=("input_ids", "attention_mask"),
        max_length=MAX_LENGTH,
        vocabulary=100,
        pad_token_id=0,
        opset=20,
        tolerance=1e-4,
    )
    generator = np.random.default_rng(0)
    answers: dict[str, list[np.ndarray]] = {"fp32": [], "int8": [], "torch": []}
    texts = []
    for length in (1, 7, 41, MAX_LENGTH):
        mask = (np.arange(length) < np.array([[length], [(length + 1) // 2]])).astype(np.int64)
        texts.append((np.where(mask, generator.integers(3, 100, mask.shape), 0), mask))
        tensors = dict(zip(("input_ids", "attention_mask"), map(torch.tensor, texts[-1]), strict=True))
        with torch.no_grad():
            answers["torch"].append(model(**tensors).logits.numpy())
    for values in ("fp32", "int8"):
        target = tmp_path / f"{values}.onnx"
        packed = write_sparse_graph(
            source, target, config=model.config, values=values, embeddings_int8=False, max_length=MAX_LENGTH
        )
        assert packed.format_version == 2
        assert packed.first_token_only == ("mean" not in name)
        session = OnnxClassifier(target, pad_token_id=0, threads=1, library=sparse_runtime.path)
        answers[values] = [session.run({"input_ids": ids, "attention_mask": mask}) for ids, mask in texts]
    for exact, ours, rounded in zip(answers["torch"], answers["fp32"], answers["int8"], strict=True):
        assert np.abs(ours - exact).max() < 1e-5
        assert np.abs(rounded - exact).max() < 0.25 * max(np.abs(exact).max(), 1)
    graphs: dict[Path, Path | None] = {source: None, tmp_path / "fp32.onnx": sparse_runtime.path}
    assert_answers_as_pipeline(model, graphs, make_checkpoint("roberta"))  # its tokenizer, which has no types either


@pytest.mark.parametrize(
    "changes", [{"pos_att_type": ["c2p"]}, {"share_att_key": False}, {"pos_att_type": None}], ids=str
)
def test_relative_positions_of_other_kinds_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"supports relative positions of both kinds.* model\.onnx serves it"):
        relative_positions({}, deberta(**changes).config, 8)
