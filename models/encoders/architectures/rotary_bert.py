"""BERT's layers with rotary positions: GTE, Nomic BERT and Jina's embeddings v3.

Layers end with their norms (post-norm) and all attend to everything. Feed-forwards of the first two are gated: Zhang et
al. 2024, arXiv 2407.19669; Nussbaum et al. 2024, arXiv 2402.01613; Sturua et al. 2024, arXiv 2409.10173.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from torch import Tensor, nn

from sparserve.models.encoders.architectures.architecture import (
    Architecture,
    LayerAttention,
    LayerNames,
    Rows,
    StoredNames,
)
from sparserve.models.encoders.architectures.rotary import head_fault, rope_fault, rotary_attention, rotated


@dataclass(frozen=True)
class RotaryBert(Architecture):
    """The one theta of all layers, as the configuration gives it."""

    def check(self, config: Any) -> str | None:
        """Refuse other kinds of RoPE, and a theta that transformers does not read."""
        if reason := rope_fault(config.rope_parameters) or head_fault(config):
            return reason
        theta, older = config.rope_parameters["rope_theta"], getattr(config, "rotary_emb_base", None)
        if older not in (None, theta):
            return (
                f"rotary_emb_base is {older!r}, but transformers computes a rope_theta of {theta!r}: set rope_theta to "
                "the one that the network was trained with"
            )
        return None

    def attention(self, config: Any) -> tuple[LayerAttention, ...]:
        """Return the attention of every layer, which is the same."""
        return (rotary_attention(config.rope_parameters),) * int(config.num_hidden_layers)

    def scores(self, attention: nn.Module, query: Tensor, key: Tensor, keywords: Mapping[str, Any]) -> Tensor:
        """Return the scores of rotated queries and keys."""
        return super().scores(attention, *rotated(query, key, keywords), keywords)

    def smaller_config(self, config: Any, layers: tuple[int, ...] | None, width: int | None) -> dict[str, Any]:
        """Let the size of a head follow from the width and the number of heads, if the configuration has it."""
        return {"head_dim": None} if hasattr(config, "head_dim") else {}


_PROJECTIONS: Final = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_NORMS: Final = ("post_attention_layernorm", "post_mlp_layernorm")

GTE: Final = RotaryBert(
    "gte",
    stack="layers",
    layer=LayerNames(
        query=Rows(_PROJECTIONS[0]),
        key=Rows(_PROJECTIONS[1]),
        value=Rows(_PROJECTIONS[2]),
        attention_output="self_attn.o_proj",
        intermediate=Rows("mlp.gate_proj"),
        gate=Rows("mlp.up_proj"),
        output="mlp.down_proj",
        norms=_NORMS,
    ),
    positions="rotary",
    position_types=frozenset({"rope", "rotary"}),
    masked_lm_parameter="lm_head.dense.weight",
    stored=StoredNames(
        renamed=(
            (r"^new\.(?=gte\.|classifier\.|lm_head\.)", ""),
            (r"^new\.", "gte."),
            (r"(^|\.)encoder\.layer\.", r"\1layers."),
            (r"\.attention\.o_proj\.", ".self_attn.o_proj."),
            (r"\.attn_ln\.", f".{_NORMS[0]}."),
            (r"\.mlp_ln\.", f".{_NORMS[1]}."),
        ),
        fused=MappingProxyType(
            {"attention.qkv_proj": _PROJECTIONS, "mlp.up_gate_proj": ("mlp.up_proj", "mlp.gate_proj")}
        ),
    ),
    ignored_fields=MappingProxyType(
        {"layer_norm_type": "layer_norm", "logn_attention_scale": False, "logn_attention_clip1": False}
    ),
    replaces_code=True,
)
NOMIC_BERT: Final = replace(
    GTE,
    model_type="nomic_bert",
    masked_lm_parameter="cls.predictions.transform.dense.weight",
    stored=StoredNames(
        renamed=(
            (r"(^|\.)encoder\.layers\.", r"\1layers."),
            (r"(^|\.)emb_ln\.", r"\1embeddings.LayerNorm."),
            (r"\.attn\.out_proj\.", ".self_attn.o_proj."),
            (r"\.fc11\.", ".up_proj."),
            (r"\.fc12\.", ".gate_proj."),
            (r"\.fc2\.", ".down_proj."),
            (r"\.norm1\.", f".{_NORMS[0]}."),
            (r"\.norm2\.", f".{_NORMS[1]}."),
        ),
        fused=MappingProxyType({"attn.Wqkv": _PROJECTIONS}),
    ),
    ignored_fields=MappingProxyType(
        {
            "num_experts": 0,
            "activation_function": "swiglu",
            "rotary_emb_fraction": 1,
            "rotary_emb_interleaved": False,
            "rotary_emb_scale_base": None,
            "rotary_scaling_factor": None,
            "prenorm": False,
            "parallel_block": False,
            "use_rms_norm": False,
            "causal": False,
            "qkv_proj_bias": False,
            "mlp_fc1_bias": False,
            "mlp_fc2_bias": False,
        }
    ),
    older_fields=MappingProxyType(
        {
            "n_embd": "hidden_size",
            "n_layer": "num_hidden_layers",
            "n_head": "num_attention_heads",
            "n_inner": "intermediate_size",
            "layer_norm_epsilon": "layer_norm_eps",
        }
    ),
)
JINA_V3: Final = replace(
    GTE,
    model_type="jina_embeddings_v3",
    layer=replace(GTE.layer, intermediate=Rows("mlp.fc1"), gate=None, output="mlp.fc2"),
    stored=StoredNames(
        renamed=(
            (r"(^|\.)encoder\.layers\.", r"\1layers."),
            (r"(^|\.)emb_ln\.", r"\1embeddings.LayerNorm."),
            (r"\.mixer\.out_proj\.", ".self_attn.o_proj."),
            (r"\.norm1\.", f".{_NORMS[0]}."),
            (r"\.norm2\.", f".{_NORMS[1]}."),
        ),
        fused=MappingProxyType({"mixer.Wqkv": _PROJECTIONS}),
    ),
    ignored_fields=MappingProxyType({}),
    replaces_code=False,  # that of the same weights with adapters, under another model type
)
