"""Configurations of published models: accepted, or refused for a reason that is true of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from sparserve.models.encoders.architectures.registry import architecture_of
from sparserve.models.encoders.configuration import read_config
from sparserve.models.errors import CheckpointError


def shape(hidden: int, intermediate: int, layers: int, heads: int) -> dict[str, Any]:
    """Return the fields of an encoder's size."""
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "pad_token_id": 0,
    }


# The fields that decide the network, as far as public text quotes the files on the Hub. Sizes of Ettin and mmBERT are
# those of their papers; no file of GTE or Jina v3 for transformers' own classes was at hand.
MODERNBERT: dict[str, Any] = {
    "model_type": "modernbert",
    "architectures": ["ModernBertForMaskedLM"],
    "position_embedding_type": "absolute",
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "local_attention": 128,
    "max_position_embeddings": 8192,
    "layer_norm_eps": 1e-05,
    "norm_eps": 1e-05,
    "classifier_pooling": "mean",
    "vocab_size": 50368,
}
ETTIN = MODERNBERT | {
    "position_embedding_type": "sans_pos",
    "local_rope_theta": 160000.0,
    "max_position_embeddings": 7999,
}
MMBERT = ETTIN | {"max_position_embeddings": 8192, "vocab_size": 256000}
DEBERTA_V3: dict[str, Any] = {
    "model_type": "deberta-v2",
    "position_biased_input": False,
    "pos_att_type": "p2c|c2p",
    "position_buckets": 256,
    "max_relative_positions": -1,
    "max_position_embeddings": 512,
    "relative_attention": True,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "layer_norm_eps": 1e-07,
    "type_vocab_size": 0,
    "vocab_size": 128100,
}
ARCTIC: dict[str, Any] = {
    "model_type": "gte",
    "architectures": ["GteModel"],
    "auto_map": {"AutoModel": "modeling_hf_alibaba_nlp_gte.GteModel"},
    "position_embedding_type": "rope",
    "layer_norm_type": "layer_norm",
    "logn_attention_scale": False,
    "logn_attention_clip1": False,
    "pack_qkv": True,
    "rope_theta": 160000,
    "rope_scaling": None,
    "max_position_embeddings": 8192,
    "type_vocab_size": 1,
    "vocab_size": 250048,
    **shape(768, 3072, 12, 12),
}
# The scaling of the code in GTE's folders as transformers has it: a larger theta, and angles divided by a factor.
GTE = ARCTIC | {
    "auto_map": None,
    "rope_theta": None,
    "rope_parameters": {"rope_type": "linear", "rope_theta": 160000.0},
}
NOMIC: dict[str, Any] = {
    "model_type": "nomic_bert",
    "architectures": ["NomicBertModel"],
    "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"},
    "activation_function": "swiglu",
    "causal": False,
    "layer_norm_epsilon": 1e-12,
    "max_trained_positions": 2048,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "n_embd": 768,
    "n_head": 12,
    "n_inner": 3072,
    "n_layer": 12,
    "n_positions": 8192,
    "parallel_block": False,
    "prenorm": False,
    "qkv_proj_bias": False,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "type_vocab_size": 2,
    "use_rms_norm": False,
    "vocab_size": 30528,
}
JINA_V3: dict[str, Any] = {
    "model_type": "jina_embeddings_v3",
    "position_embedding_type": "rotary",
    "rotary_emb_base": 20000.0,
    "max_position_embeddings": 8194,
    "type_vocab_size": 1,
    "vocab_size": 250002,
    **shape(1024, 4096, 24, 16),
}
ACCEPTED: dict[str, dict[str, Any]] = {
    "ModernBERT-base": MODERNBERT | shape(768, 1152, 22, 12),
    "ModernBERT-large": MODERNBERT | shape(1024, 2624, 28, 16),
    "gte-modernbert-base": MODERNBERT | shape(768, 1152, 22, 12) | {"architectures": ["ModernBertModel"]},
    "ettin-encoder-17m": ETTIN | shape(256, 384, 7, 4),
    "ettin-encoder-32m": ETTIN | shape(384, 576, 10, 6),
    "ettin-encoder-68m": ETTIN | shape(512, 768, 19, 8),
    "ettin-encoder-400m": ETTIN | shape(1024, 2624, 28, 16),
    "mmBERT-small": MMBERT | shape(384, 1152, 22, 6),
    "mmBERT-base": MMBERT | shape(768, 1152, 22, 12),
    "deberta-v3-xsmall": DEBERTA_V3 | shape(384, 1536, 12, 6),
    "deberta-v3-small": DEBERTA_V3 | shape(768, 3072, 6, 12),
    "deberta-v3-base": DEBERTA_V3 | shape(768, 3072, 12, 12),
    "mdeberta-v3-base": DEBERTA_V3 | shape(768, 3072, 12, 12) | {"vocab_size": 251000},
    "snowflake-arctic-embed-m-v2.0": ARCTIC,
    "gte-multilingual-base": GTE | {"rope_parameters": {**GTE["rope_parameters"], "factor": 8 ** (1 / 32)}},
    "nomic-embed-text-v1": NOMIC,
    "nomic-embed-text-v1.5": NOMIC
    | {"max_position_embeddings": 2048, "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"}},
    "jina-embeddings-v3-hf": JINA_V3,
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "deberta-v2-xlarge": (
        DEBERTA_V3 | shape(1536, 6144, 24, 24) | {"conv_kernel_size": 3, "conv_act": "gelu", "attention_head_size": 64},
        "conv_kernel_size is 3: this network has a convolution",
    ),
    "gte-base-en-v1.5": (
        ARCTIC | {"model_type": "new", "architectures": ["NewModel"]},
        "is a 'new' model, which needs the code of its repository",
    ),
    "gte-multilingual-base, renamed alone": (
        ARCTIC | {"rope_theta": 20000, "rope_scaling": {"type": "ntk", "factor": 8.0}},
        "rope_type is 'ntk', but only 'default' and 'linear' are supported",
    ),
    "nomic-embed-text-v2-moe": (
        NOMIC | {"num_experts": 8, "activation_function": "gelu", "qkv_proj_bias": True, "rotary_emb_base": 10000},
        "num_experts is 8, which transformers ignores: it computes the network that has 0",
    ),
    "jina-embeddings-v3": (
        JINA_V3 | {"model_type": "xlm-roberta", "auto_map": {"AutoModel": "modeling_lora.XLMRobertaLoRA"}},
        "auto_map is set",
    ),
    "jina-embeddings-v3 without auto_map": (
        JINA_V3 | {"model_type": "xlm-roberta"},
        "'rotary', but transformers 5 computes absolute positions only in a 'xlm-roberta' model",
    ),
}


@pytest.mark.parametrize("model", ACCEPTED)
def test_read_config_takes_published_models(model: str, tmp_path: Path) -> None:
    fields = ACCEPTED[model]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    config = read_config(tmp_path)
    architecture = architecture_of(config)
    assert architecture.longest_text(config) == fields.get("max_position_embeddings", 2048)
    attention = architecture.attention(config)
    assert len(attention) == fields.get("num_hidden_layers", 12)
    assert not hasattr(config, "auto_map")
    if fields["model_type"] == "modernbert":
        assert [layer.theta for layer in attention[:2]] == [160000, fields["local_rope_theta"]]
        assert [layer.band for layer in attention[:4]] == [None, 64, 64, None]
    if fields["model_type"] == "gte":
        assert {layer.theta for layer in attention} == {160000}
        assert (attention[0].factor == 1) == ("rope_parameters" not in fields)


@pytest.mark.parametrize("model", REFUSED)
def test_read_config_refuses_published_models(model: str, tmp_path: Path) -> None:
    fields, message = REFUSED[model]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=message):
        read_config(tmp_path)
