"""Attention scores and the encoder's linears."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from sparserve.models.encoders.attention_scores import attention_scores
from sparserve.models.encoders.layers import encoder_linears


@pytest.mark.parametrize(
    "model_type", ["bert", "deberta-v2", "distilbert", "gte", "modernbert", "nomic_bert", "roberta"]
)
def test_attention_scores_give_the_models_attention(make_checkpoint: Callable[..., Path], model_type: str) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(
        make_checkpoint(model_type), attn_implementation="eager"
    ).eval()
    ids = torch.randint(5, 40, (2, 6))
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    with torch.no_grad(), attention_scores(model) as scores:
        attentions = model(input_ids=ids, attention_mask=mask, output_attentions=True).attentions
    assert len(scores) == len(attentions) == 2
    for score, attention in zip(scores, attentions, strict=True):
        masked = score.masked_fill(mask[:, None, None, :] == 0, -torch.inf)
        expected = attention.movedim(1, -2)[mask == 1]  # DeBERTa has other weights of queries at padding
        torch.testing.assert_close(masked.softmax(-1).movedim(1, -2)[mask == 1], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("model_type", "linears"),
    [
        ("bert", 6),
        ("deberta-v2", 6),
        ("distilbert", 6),
        ("gte", 7),
        ("jina_embeddings_v3", 6),
        ("modernbert", 4),
        ("mpnet", 6),
    ],
)
def test_encoder_linears_returns_all_of_every_layer(
    make_checkpoint: Callable[..., Path], model_type: str, linears: int
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(make_checkpoint(model_type))
    targets = encoder_linears(model)
    assert len(targets) == 2 * linears
    assert not any("embeddings" in name or "classifier" in name or "pooler" in name for name in targets)


def test_attention_scores_are_zero_outside_of_the_band(make_checkpoint: Callable[..., Path]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(
        make_checkpoint("modernbert"), attn_implementation="eager"
    ).eval()
    ids = torch.randint(5, 40, (1, 20))
    with torch.no_grad(), attention_scores(model) as scores:
        attentions = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_attentions=True).attentions
    full, sliding = scores
    outside = (torch.arange(20)[:, None] - torch.arange(20)).abs() > 8
    assert not sliding[..., outside].any() and full[..., outside].all()
    torch.testing.assert_close(
        sliding.masked_fill(outside, -torch.inf).softmax(-1), attentions[1], atol=1e-5, rtol=1e-4
    )
