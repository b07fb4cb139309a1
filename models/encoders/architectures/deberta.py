"""DeBERTa-v2, DeBERTa-v3 and mDeBERTa: attention to contents and to relative positions.

He et al. 2021, arXiv 2006.03654 and 2111.09543. A layer is BERT's, but a score is a sum of up to three products:
content to content, content to position and position to content.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from torch import Tensor, nn

from sparserve.models.encoders.architectures.architecture import Architecture, Rows
from sparserve.models.encoders.architectures.bert import BERT

KINDS: Final = ("c2p", "p2c")
MAX_POSITIONS: Final = 1 << 16


@dataclass(frozen=True)
class Deberta(Architecture):
    """The family's scores, and the configurations that describe other networks."""

    def check(self, config: Any) -> str | None:
        """Refuse networks with convolutions, with absolute positions alone, or with other kinds of attention."""
        if getattr(config, "conv_kernel_size", 0):
            return (
                f"conv_kernel_size is {config.conv_kernel_size!r}: this network has a convolution after its first "
                "layer, which is not supported. Take a DeBERTa-v3 checkpoint, which has none"
            )
        if config.relative_attention is not True:
            return "relative_attention is off: only networks that attend to relative positions are supported"
        kinds = config.pos_att_type
        if not isinstance(kinds, list) or not kinds or set(kinds) - set(KINDS) or len(set(kinds)) != len(kinds):
            return f"pos_att_type is {kinds!r}, but it must name {' or '.join(KINDS)}, or both"
        if getattr(config, "norm_rel_ebd", "none") not in ("none", "layer_norm"):
            return f"norm_rel_ebd is {config.norm_rel_ebd!r}, but it must be 'layer_norm' or 'none'"
        size = config.hidden_size // config.num_attention_heads
        if getattr(config, "attention_head_size", size) != size or config.pooler_hidden_size != config.hidden_size:
            return "attention_head_size or pooler_hidden_size differs from what hidden_size gives: take equal sizes"
        for name in ("max_position_embeddings", "max_relative_positions", "position_buckets"):
            value = getattr(config, name, -1)
            if type(value) is not int or value > MAX_POSITIONS:
                return f"{name} is {value!r}, but it must be a whole number of at most {MAX_POSITIONS}"
        return None

    def has_position_table(self, config: Any) -> bool:
        """Return True if positions are also added to the embeddings, as DeBERTa-v3 does not."""
        return bool(config.position_biased_input)

    def score_products(self, config: Any) -> int:
        """Return the number of inner products that a score is the sum of."""
        return 1 + len(config.pos_att_type)

    def scores(self, attention: nn.Module, query: Tensor, key: Tensor, keywords: Mapping[str, Any]) -> Tensor:
        """Return the scores of contents and positions together."""
        module: Any = attention
        batch, heads, length, size = query.shape
        products = 1 + len(module.pos_att_type)
        positions: Tensor = module.disentangled_attention_bias(
            query.reshape(-1, length, size),
            key.reshape(-1, length, size),
            keywords["relative_pos"],
            keywords["rel_embeddings"].float(),
            products,
        )
        scores: Tensor = super().scores(attention, query, key, keywords)
        return scores / math.sqrt(products) + positions.view(batch, heads, length, length)

    def smaller_config(self, config: Any, layers: tuple[int, ...] | None, width: int | None) -> dict[str, Any]:
        """Return the width of the pooler, which is that of the hidden states."""
        return {} if width is None else {"pooler_hidden_size": width}


DEBERTA_V2: Final = Deberta(
    "deberta-v2",
    stack=BERT.stack,
    layer=replace(
        BERT.layer,
        query=Rows("attention.self.query_proj"),
        key=Rows("attention.self.key_proj"),
        value=Rows("attention.self.value_proj"),
        position_query="attention.self.pos_query_proj",
        position_key="attention.self.pos_key_proj",
    ),
    positions="disentangled",
    masked_lm_parameter=BERT.masked_lm_parameter,
    embedding_projection="embeddings.embed_proj",
    hidden_modules=("encoder.rel_embeddings", "encoder.LayerNorm"),
)
