"""Attention scores and the encoder's linears."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from sparserve.models.encoders.attention_scores import attention_scores
from sparserve.models.encoders.layers import encoder_linears


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta", "electra"])
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
        torch.testing.assert_close(masked.softmax(-1), attention, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta", "electra", "mpnet"])
def test_encoder_linears_returns_six_per_layer(make_checkpoint: Callable[..., Path], model_type: str) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(make_checkpoint(model_type))
    targets = encoder_linears(model)
    assert len(targets) == 12
    assert not any("embeddings" in name or "classifier" in name or "pooler" in name for name in targets)
