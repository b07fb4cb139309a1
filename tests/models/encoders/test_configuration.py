"""Configurations that describe another network, or none, are refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparserve.models.encoders.checkpoint import adopt, load_classifier, resolve_checkpoint
from sparserve.models.encoders.configuration import read_config
from sparserve.models.errors import CheckpointError, SparserveError
from sparserve.models.pipeline.preflight import check_bigger_teacher, check_recipe
from sparserve.models.recipes.loading import load_recipe

PROBLEM = "single_label_classification"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "'relative_key', but transformers 5 computes absolute positions"),
        ({"position_embedding_type": "rotary"}, "'rotary', but transformers 5 computes absolute positions"),
        ({"auto_map": {"AutoModel": "modeling.Other"}}, "auto_map is set.*code in its folder, which is never run"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised weights: save the network that they were made"),
        ({"compression_config": {"format": "pack-quantized"}}, "compressed weights"),
        ({"is_decoder": True}, "is a decoder"),
        ({"add_cross_attention": True}, "cross-attention"),
        ({"pruned_heads": {"0": [1]}}, "lacks attention heads"),
        ({"per_layer_config": {"0": {"intermediate_size": 3}}}, "layers that differ"),
        ({"transformers_weights": "other.safetensors"}, "names another file of weights"),
        ({"model_type": None}, "does not name its model_type, not an encoder"),
        ({"model_type": []}, "does not name its model_type"),
        ({"model_type": "new"}, "a 'new' model, which needs the code of its repository.*with the model_type 'gte'"),
        ({"model_type": "longformer"}, "'longformer' model, not an encoder that can be compressed here"),
        ({"num_hidden_layers": None}, "config.json"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, but the weights are"),
        ({"max_position_embeddings": 10**9}, "max_position_embeddings is 1000000000, but the weights are"),
        ({"hidden_size": 33}, "not divisible by 4 heads"),
        ({"hidden_size": 0}, "hidden_size is 0, but it must be a whole number of at least 1"),
        ({"num_labels": 10**9}, "num_labels is 1000000000"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label must give every index"),
        ({"id2label": {"0": None, "1": "b"}}, "config.json"),
        ({"pad_token_id": 10**6}, "pad_token_id is 1000000, but it must be one of the"),
        ({"pad_token_id": -1}, "pad_token_id is -1"),
        ({"to_dict": 1}, "the field 'to_dict', which no configuration has"),
        ({"attribute_map": {"hidden_size": "vocab_size"}}, "the field 'attribute_map'"),
    ],
)  # fmt: skip
def test_resolve_checkpoint_refuses_a_configuration(
    fields: dict[str, Any], message: str, copy: Callable[..., Path]
) -> None:
    with pytest.raises(CheckpointError, match=message):
        resolve_checkpoint(str(copy(**fields)))


ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10_000.0}


@pytest.mark.parametrize(
    ("model_type", "fields", "message"),
    [
        ("deberta-v2", {"conv_kernel_size": 3}, "conv_kernel_size is 3: this network has a convolution"),
        ("deberta-v2", {"relative_attention": False}, "relative_attention is off"),
        ("deberta-v2", {"pos_att_type": ["p2p"]}, r"pos_att_type is \['p2p'\], but it must name c2p or p2c"),
        ("deberta-v2", {"norm_rel_ebd": "batch_norm"}, "norm_rel_ebd is 'batch_norm'"),
        ("deberta-v2", {"pooler_hidden_size": 8}, "pooler_hidden_size differs"),
        ("deberta-v2", {"position_buckets": 1 << 20}, "position_buckets is 1048576, but it must be .* at most 65536"),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": {**ROPE, "rope_type": "dynamic", "factor": 2.0}}},
            "rope_type of full_attention is 'dynamic', but only 'default' and 'linear' are supported",
        ),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": ROPE, "sliding_attention": {**ROPE, "rope_theta": -1.0}}},
            "rope_theta of sliding_attention is -1.0, but it must be a number above 0 and below 1e[+]30",
        ),
        (
            "modernbert",
            {"rope_parameters": None, "rope_scaling": {"type": "yarn", "factor": 4.0}},
            "rope_type of full_attention is 'yarn', but only 'default' and 'linear' are supported",
        ),
        (
            "gte",
            {"rope_parameters": {**ROPE, "type": "linear", "factor": 4.0}},
            "type is 'linear', but transformers computes 'default': give the kind as rope_type",
        ),
        (
            "gte",
            {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 0}},
            "factor is 0, but it must be a number above 0",
        ),
        ("gte", {"layer_norm_type": "rms_norm"}, "layer_norm_type is 'rms_norm', which transformers ignores"),
        ("gte", {"logn_attention_scale": True}, "logn_attention_scale is True, .* the network that has False"),
        ("modernbert", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, which transformers ignores"),
        ("modernbert", {"rope_theta": 5.0}, "rope_theta is 5.0, but transformers computes 160000.0: set global_rope"),
        ("nomic_bert", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, but all features of a head"),
        ("nomic_bert", {"rotary_emb_fraction": 0.5}, "rotary_emb_fraction is 0.5, .* the network that has 1"),
        ("nomic_bert", {"prenorm": True}, "prenorm is True, which transformers ignores"),
        ("nomic_bert", {"rotary_emb_base": 10_000}, "rotary_emb_base is 10000, but transformers computes a rope_theta"),
        ("nomic_bert", {"n_head": 2}, "n_head is 2, but num_attention_heads is 4, and both are names of one setting"),
        ("jina_embeddings_v3", {"auto_map": {"AutoModel": "modeling.Other"}}, "auto_map is set.*code in its folder"),
        (
            "gte",
            {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor is 0.5, but all features of a head are rotated",
        ),
        ("gte", {"rope_parameters": {**ROPE, "rope_theta": 10**400}}, "rope_theta is a number of 401 characters"),
        ("gte", {"rope_parameters": {**ROPE, "rope_theta": float("inf")}}, "rope_theta is inf, but it must be a"),
        ("gte", {"rope_parameters": {**ROPE, "rope_theta": True}}, "rope_theta is True, but it must be a"),
        ("gte", {"position_embedding_type": "absolute"}, "'absolute', but .* rotary positions only in a 'gte' model"),
        ("modernbert", {"position_embedding_type": "rope"}, "'rope', but .* only in a 'modernbert' model"),
        ("deberta-v2", {"position_embedding_type": ["absolute"]}, "relative positions only in a 'deberta-v2' model"),
        (
            "gte",
            {"rope_scaling": {"type": "ntk", "factor": 8.0}},
            "rope_type is 'ntk', but only .* are supported: take a checkpoint without RoPE scaling",
        ),
        ("nomic_bert", {"head_dim": 16}, "head_dim is 16, but hidden_size and num_attention_heads give 8"),
        (
            "jina_embeddings_v3",
            {"max_position_embeddings": 1 << 21},
            "max_position_embeddings is 2097152, but it must be at most 1048576",
        ),
        ("modernbert", {"local_attention": 1}, "local_attention is 1, but it must be a whole number of at least 2"),
        ("modernbert", {"layer_types": ["full_attention", "chunked_attention"]}, "layer_types must name"),
    ],
)
def test_resolve_checkpoint_refuses_other_networks_of_a_family(
    model_type: str, fields: dict[str, Any], message: str, copy: Callable[..., Path]
) -> None:
    with pytest.raises(CheckpointError, match=message):
        resolve_checkpoint(str(copy(model_type, **fields)))


def test_load_classifier_takes_nomic_bert_beside_its_code(copy: Callable[..., Path]) -> None:
    folder = copy(
        "nomic_bert", auto_map={"AutoConfig": "code.Config", "AutoModelForSequenceClassification": "code.Model"}
    )
    (folder / "code.py").write_text("raise AssertionError('code of the folder was run')")
    fields = json.loads((folder / "config.json").read_text())
    older = {"n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "layer_norm_epsilon": "layer_norm_eps"}
    fields = fields | {name: fields[current] for name, current in older.items()}
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in fields.items() if name not in older.values()})
    )
    inputs = {"input_ids": torch.tensor([[2, 3, 4]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    model = load_classifier(folder, ("a", "b"), PROBLEM)
    expected = load_classifier(copy("nomic_bert"), ("a", "b"), PROBLEM)
    assert torch.equal(model(**inputs).logits, expected(**inputs).logits)
    saved: Any = model.config
    assert not {"auto_map", *older} & set(saved.to_dict())


@pytest.mark.parametrize("content", ["[]", '"bert"', "null", "\\xff", "[" * 100_000, ""])
def test_resolve_checkpoint_refuses_a_file_that_is_no_object(content: str, copy: Callable[..., Path]) -> None:
    folder = copy()
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json (cannot be read|is not a configuration)"):
        resolve_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id2label": ["bad", "good"]}, r"id2label must give every index a name, as \{"),
        ({"id2label": {"bad": 0, "good": 1}}, "id2label must give every index a name"),
        ({"problem_type": "classification"}, "problem_type is 'classification', but transformers knows regression"),
        ({"architectures": ["RobertaForMaskedLM"]}, "architectures names RobertaForMaskedLM, but model_type is 'bert'"),
    ],
)
def test_read_config_refuses_fields_that_contradict_each_other(
    fields: dict[str, Any], message: str, copy: Callable[..., Path]
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_config(copy(**fields))


@pytest.mark.parametrize("names", [("bad", "good"), ("LABEL_0", "LABEL_1")])
def test_check_bigger_teacher_refuses_labels_that_may_be_swapped(
    names: tuple[str, str], copy: Callable[..., Path]
) -> None:
    fields = {"id2label": dict(enumerate(names)), "label2id": {"good": 0, "bad": 1}}
    recipe = load_recipe("magnitude", overrides={"max_length": 16})
    with pytest.raises(CheckpointError, match="id2label and label2id contradict each other"):
        check_bigger_teacher(resolve_checkpoint(str(copy(**fields))), recipe)


def test_read_config_takes_classes_of_the_same_network(copy: Callable[..., Path]) -> None:
    assert read_config(copy("roberta", architectures=["XLMRobertaForMaskedLM", "MyModel"])).model_type == "roberta"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
    ],
)
def test_read_config_names_what_is_in_the_file(content: bytes, message: str, copy: Callable[..., Path]) -> None:
    folder = copy()
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_config(folder)


def test_resolve_checkpoint_names_an_adapter(copy: Callable[..., Path]) -> None:
    folder = copy()
    (folder / "adapter_config.json").write_text("{}")
    message = r"holds an adapter .* merge it into its base model with `model\.merge_and_unload\(\)"
    with pytest.raises(CheckpointError, match=message):  # beside a base, which alone would be loaded
        resolve_checkpoint(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=message):
        resolve_checkpoint(str(folder))


def test_resolve_checkpoint_reads_no_other_configuration_file(copy: Callable[..., Path]) -> None:
    folder = copy(configuration_files=["config.4.0.0.json"])
    other = json.loads((folder / "config.json").read_text()) | {"position_embedding_type": "relative_key"}
    (folder / "config.4.0.0.json").write_text(json.dumps(other))
    assert not hasattr(resolve_checkpoint(str(folder)).config, "position_embedding_type")


@pytest.mark.parametrize(
    "fields", [{"return_dict": False}, {"output_attentions": True}, {"attn_implementation": "flash_attention_2"}]
)
def test_load_classifier_decides_the_fields_of_a_run(fields: dict[str, Any], copy: Callable[..., Path]) -> None:
    model = load_classifier(copy(**fields), ("a", "b"), PROBLEM)
    assert model(input_ids=torch.tensor([[2, 3]])).logits.shape == (1, 2)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "mpnet"])
def test_read_config_takes_a_padding_id_that_is_null_from_the_tokenizer(
    model_type: str, copy: Callable[..., Path], tmp_path: Path, tiny_recipe: Path
) -> None:
    given = json.loads((copy(model_type) / "config.json").read_text())["pad_token_id"]
    checkpoint = resolve_checkpoint(str(copy(model_type, pad_token_id=None)))
    assert checkpoint.config.pad_token_id == given == checkpoint.pad_token_id
    check_recipe(checkpoint, None, load_recipe(tiny_recipe))
    (tmp_path / "adopted").mkdir()
    adopt(tmp_path / "adopted", checkpoint)
    model: Any = load_classifier(tmp_path / "adopted", ("a", "b"), PROBLEM)
    assert model.config.pad_token_id == given
    for path in checkpoint.folder.glob("*token*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        read_config(checkpoint.folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "no-such"}, "describes a network that cannot be built"),
        ({"attention_probs_dropout_prob": 2.0}, "describes a network that cannot be built"),
    ],
)
def test_check_recipe_refuses_a_network_that_cannot_be_built(
    fields: dict[str, Any], message: str, copy: Callable[..., Path], tiny_recipe: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_recipe(resolve_checkpoint(str(copy(**fields))), None, load_recipe(tiny_recipe))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "model_type",
    [
        "bert",
        "deberta-v2",
        "distilbert",
        "electra",
        "gte",
        "jina_embeddings_v3",
        "modernbert",
        "mpnet",
        "nomic_bert",
        "roberta",
    ],
)
def test_any_configuration_is_accepted_or_refused_in_words(
    model_type: str, copy: Callable[..., Path], tiny_recipe: Path
) -> None:
    folder, recipe = copy(model_type), load_recipe(tiny_recipe)
    original = json.loads((folder / "config.json").read_text())
    known = st.sampled_from(sorted({*original, *vars(read_config(folder)), *dir(type(read_config(folder)))}))

    @settings(max_examples=30, deadline=None)
    @example({"rope_parameters": {"rope_theta": 10**400}}, set())
    @example({"rope_theta": float("inf")}, set())
    @given(
        st.dictionaries(known, VALUES, min_size=1, max_size=2), st.sets(st.sampled_from(sorted(original)), max_size=2)
    )
    def check(fields: dict[str, Any], absent: set[str]) -> None:
        changed = {name: value for name, value in {**original, **fields}.items() if name not in absent - fields.keys()}
        (folder / "config.json").write_text(json.dumps(changed))
        try:
            checkpoint = resolve_checkpoint(str(folder))
            check_recipe(checkpoint, None, recipe)
            model = load_classifier(folder, ("a", "b"), PROBLEM)
            model(input_ids=torch.tensor([[2, 3, 4]]), attention_mask=torch.ones(1, 3, dtype=torch.long))
        except SparserveError as error:
            assert str(error)

    check()
