"""Random ModernBERT and DeBERTa-v3 classifiers of real shapes, and their arms in the kernel benchmark.

Layers and widths of Ettin are those that Weller et al. 2025 (arXiv 2507.11412) and its model cards give; the widths of
the feed-forward follow from ModernBERT's ratio and give the published numbers of parameters (32m: 31.9 million).
Dense ONNX Runtime runs the same exported graph, which it optimises itself, in fp32 and with dynamic int8.
"""

from typing import Any, Final

import torch
from transformers import (
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
)

from benchmarks.kernels.dense_encoders import WEIGHT_DEVIATION, EncoderShape

MODERNBERT_BASE: Final = EncoderShape("ModernBERT-base", 22, 768, 12, 1152, 50368, "modernbert")
ETTIN_17M: Final = EncoderShape("Ettin-17m", 7, 256, 4, 384, 50368, "modernbert")
ETTIN_32M: Final = EncoderShape("Ettin-32m", 10, 384, 6, 576, 50368, "modernbert")
ETTIN_68M: Final = EncoderShape("Ettin-68m", 19, 512, 8, 768, 50368, "modernbert")
DEBERTA_V3_XSMALL: Final = EncoderShape("DeBERTa-v3-xsmall", 12, 384, 6, 1536, 128100, "deberta-v2")
DEBERTA_V3_SMALL: Final = EncoderShape("DeBERTa-v3-small", 6, 768, 12, 3072, 128100, "deberta-v2")
DEBERTA_V3_BASE: Final = EncoderShape("DeBERTa-v3-base", 12, 768, 12, 3072, 128100, "deberta-v2")
INPUT_NAMES: Final = ("input_ids", "attention_mask")


def random_modern_classifier(shape: EncoderShape, seed: int) -> Any:
    """Return a classifier of two labels with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.intermediate,
        "num_labels": 2,
        "pad_token_id": 0,
        "initializer_range": WEIGHT_DEVIATION,
        "attn_implementation": "eager",
    }
    if shape.family == "modernbert":
        return ModernBertForSequenceClassification(ModernBertConfig(**sizes)).eval()
    config = DebertaV2Config(
        **sizes,
        relative_attention=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        pooler_hidden_size=shape.hidden,
        max_relative_positions=-1,
    )
    return DebertaV2ForSequenceClassification(config).eval()
