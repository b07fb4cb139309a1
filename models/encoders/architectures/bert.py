"""BERT and the families with its layers: post-norm, plain feed-forward, separate query, key and value."""

from dataclasses import replace
from types import MappingProxyType
from typing import Final

from sparserve.models.encoders.architectures.architecture import Architecture, LayerNames, Rows

BERT: Final = Architecture(
    "bert",
    stack="encoder.layer",
    layer=LayerNames(
        query=Rows("attention.self.query"),
        key=Rows("attention.self.key"),
        value=Rows("attention.self.value"),
        attention_output="attention.output.dense",
        intermediate=Rows("intermediate.dense"),
        output="output.dense",
        norms=("attention.output.LayerNorm", "output.LayerNorm"),
    ),
    positions="table",
    masked_lm_parameter="cls.predictions.transform.dense.weight",
)
ELECTRA: Final = replace(
    BERT,
    model_type="electra",
    embedding_projection="embeddings_project",
    masked_lm_parameter="generator_predictions.dense.weight",
)
ROBERTA: Final = replace(
    BERT, model_type="roberta", positions="table after padding", masked_lm_parameter="lm_head.dense.weight"
)
CAMEMBERT: Final = replace(ROBERTA, model_type="camembert")
XLM_ROBERTA: Final = replace(ROBERTA, model_type="xlm-roberta")
# Positions have a table and a bias of relative positions, one per head, that all layers share.
MPNET: Final = replace(
    ROBERTA,
    model_type="mpnet",
    layer=replace(
        BERT.layer,
        query=Rows("attention.attn.q"),
        key=Rows("attention.attn.k"),
        value=Rows("attention.attn.v"),
        attention_output="attention.attn.o",
        norms=("attention.LayerNorm", "output.LayerNorm"),
    ),
)
DISTILBERT: Final = Architecture(
    "distilbert",
    stack="transformer.layer",
    layer=LayerNames(
        query=Rows("attention.q_lin"),
        key=Rows("attention.k_lin"),
        value=Rows("attention.v_lin"),
        attention_output="attention.out_lin",
        intermediate=Rows("ffn.lin1"),
        output="ffn.lin2",
        norms=("sa_layer_norm", "output_layer_norm"),
    ),
    positions="table",
    masked_lm_parameter="vocab_transform.weight",
    head_readers=("pre_classifier",),
    config_names=MappingProxyType({"intermediate_size": "hidden_dim"}),
)
