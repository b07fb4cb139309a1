"""ModernBERT, and the encoders of its class: Ettin, mmBERT, gte-modernbert.

Warner et al. 2024, arXiv 2412.13663. Layers begin with their norms (pre-norm), feed-forwards are gated, positions are
rotations of queries and keys (RoPE), and most layers attend to a band of neighbours only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn

from sparserve.models.encoders.architectures.architecture import Architecture, LayerAttention, LayerNames, Rows
from sparserve.models.encoders.architectures.rotary import head_fault, rope_fault, rotary_attention, rotated

FULL: Final = "full_attention"
SLIDING: Final = "sliding_attention"


@dataclass(frozen=True)
class ModernBert(Architecture):
    """The family's band, RoPE and pooling, as its configuration gives them."""

    def check(self, config: Any) -> str | None:
        """Refuse other kinds of RoPE and of attention."""
        unknown = set(config.layer_types) - {FULL, SLIDING}
        if unknown or len(config.layer_types) != config.num_hidden_layers:
            return (
                f"layer_types must name {FULL} or {SLIDING} for each of the {config.num_hidden_layers} layers: "
                "take the configuration that the network was trained with"
            )
        for layer_type in sorted(set(config.layer_types)):
            if reason := rope_fault(config.rope_parameters[layer_type], f" of {layer_type}"):
                return reason
        theta = config.rope_parameters[FULL]["rope_theta"]
        if getattr(config, "rope_theta", None) not in (None, theta):
            return (
                f"rope_theta is {config.rope_theta!r}, but transformers computes {theta!r}: set global_rope_theta and "
                "local_rope_theta, the names of this architecture"
            )
        if type(config.local_attention) is not int or config.local_attention < 2:
            return f"local_attention is {config.local_attention!r}, but it must be a whole number of at least 2"
        return head_fault(config)

    def attention(self, config: Any) -> tuple[LayerAttention, ...]:
        """Return the band and theta of every layer, the lowest first."""
        bands = {FULL: None, SLIDING: config.local_attention // 2}
        return tuple(rotary_attention(config.rope_parameters[kind], bands[kind]) for kind in config.layer_types)

    def pools_mean(self, config: Any) -> bool:
        """Return True if the classification head reads the mean of all tokens."""
        return bool(config.classifier_pooling == "mean")

    def scores(self, attention: nn.Module, query: Tensor, key: Tensor, keywords: Mapping[str, Any]) -> Tensor:
        """Return the scores of rotated queries and keys, with 0 outside of the layer's band."""
        scores: Tensor = super().scores(attention, *rotated(query, key, keywords), keywords)
        module: Any = attention
        window: int | None = module.sliding_window
        if window is None:
            return scores
        positions = torch.arange(scores.shape[-1], device=scores.device)
        # transformers stores the band plus 1, the number that its kernels take.
        return scores * ((positions[:, None] - positions).abs() < window)

    def smaller_config(self, config: Any, layers: tuple[int, ...] | None, width: int | None) -> dict[str, Any]:
        """Return the kinds of attention of the kept layers."""
        return {} if layers is None else {"layer_types": [config.layer_types[layer] for layer in layers]}


MODERNBERT: Final = ModernBert(
    "modernbert",
    stack="layers",
    layer=LayerNames(
        query=Rows("attn.Wqkv", 0, 3),
        key=Rows("attn.Wqkv", 1, 3),
        value=Rows("attn.Wqkv", 2, 3),
        attention_output="attn.Wo",
        intermediate=Rows("mlp.Wi", 0, 2),
        gate=Rows("mlp.Wi", 1, 2),
        output="mlp.Wo",
        norms=("attn_norm", "mlp_norm"),
    ),
    positions="rotary",
    # ModernBERT's files have the default of BERT's configuration; Ettin's and mmBERT's say that no position is added.
    position_types=frozenset({"absolute", "sans_pos"}),
    # `head` is also a part of classifiers; the decoder's matrix is tied to the embeddings and not stored.
    masked_lm_parameter="decoder.bias",
    token_table="embeddings.tok_embeddings",
    hidden_modules=("final_norm",),
    head_readers=("head.dense",),
    norm_first=True,
    ignored_fields=MappingProxyType({"partial_rotary_factor": 1}),
)
