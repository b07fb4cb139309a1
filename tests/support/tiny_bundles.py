"""Tiny bundles, made without torch: an embedding, a masked mean and a linear layer over a word-level tokenizer."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from sparserve.models.bundle.bundle import Bundle
from sparserve.models.bundle.manifest import (
    Density,
    Flops,
    Lineage,
    Manifest,
    SampleAnswer,
    Sizes,
    Sparsity,
    TensorSparsity,
)
from sparserve.models.bundle.store import Store

TASK = "movie-sentiment"
LABELS = ("negative", "positive")
MAX_LENGTH = 16
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "the", "a", "was", "fun", "dull", "😀", "טוב"]
HIDDEN = 8
# More floats than an address space has room for: onnxruntime never gets them, whatever the machine lets it ask for.
TOO_MANY = 2**46


def tokenizer_json() -> bytes:
    """A WordLevel tokenizer with BERT's special tokens."""
    vocabulary = {word: position for position, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return tokenizer.to_str().encode()


def graph(labels: int = len(LABELS), *, seed: int = 0, scale: float = 4.0, poison: bool = False) -> bytes:
    """ONNX bytes: input_ids, attention_mask and token_type_ids `[batch, length]` to logits `[batch, labels]`.

    With `poison` every logit is NaN.
    """
    random = np.random.default_rng(seed)
    words = random.normal(size=(len(WORDS), HIDDEN)).astype(np.float32)
    types = random.normal(size=(2, HIDDEN)).astype(np.float32)
    weight = (scale * random.normal(size=(HIDDEN, labels))).astype(np.float32)
    bias = np.full(labels, np.nan if poison else 0, dtype=np.float32)
    constants = {"words": words, "types": types, "weight": weight, "bias": bias, "last": np.array([2])}
    sums = {"sum_axis": np.array([1])}
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["word"]),
        helper.make_node("Gather", ["types", "token_type_ids"], ["type"]),
        helper.make_node("Add", ["word", "type"], ["embedding"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["embedding", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "sum_axis"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask3", "sum_axis"], ["count"], keepdims=0),
        helper.make_node("Div", ["total", "count"], ["mean"]),
        helper.make_node("Gemm", ["mean", "weight", "bias"], ["logits"]),
    ]
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in names]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", labels])]
    initializers = [numpy_helper.from_array(value, name) for name, value in {**constants, **sums}.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", inputs, outputs, initializers),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def forgetful() -> bytes:
    """The tiny graph, which answers the first input of a batch alone."""
    model = onnx.load_from_string(graph(seed=3))
    model.graph.node[-1].output[0] = "all"
    bounds = {"begin": [0], "end": [1], "axis": [0]}
    model.graph.initializer.extend(
        helper.make_tensor(name, TensorProto.INT64, [1], value) for name, value in bounds.items()
    )
    model.graph.node.append(helper.make_node("Slice", ["all", *bounds], ["logits"]))
    return model.SerializeToString()


def short_sighted(longest: int = 6) -> bytes:
    """The tiny graph, which fails at texts of more tokens."""
    model = onnx.load_from_string(graph(seed=3))
    model.graph.node[-1].output[0] = "unchecked"
    model.graph.initializer.extend(
        [
            helper.make_tensor("second", TensorProto.INT64, [], [1]),
            helper.make_tensor("places", TensorProto.FLOAT, [longest + 1], [0.0] * (longest + 1)),
        ]
    )
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["input_ids"], ["shape"]),
            helper.make_node("Gather", ["shape", "second"], ["length"]),
            helper.make_node("Gather", ["places", "length"], ["zero"]),  # out of its bounds for more
            helper.make_node("Add", ["unchecked", "zero"], ["logits"]),
        ]
    )
    return model.SerializeToString()


def hungry() -> bytes:
    """The tiny graph, which wants `TOO_MANY` floats for every input of a batch but the first."""
    model = onnx.load_from_string(graph(seed=3))
    final = model.graph.node[-1]
    final.output[0] = "modest"
    constants = {"one": [1], "first": [0], "too_many": [TOO_MANY]}
    model.graph.initializer.extend(
        helper.make_tensor(name, TensorProto.INT64, [1], value) for name, value in constants.items()
    )
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["input_ids"], ["shape"]),
            helper.make_node("Gather", ["shape", "first"], ["batch"]),
            helper.make_node("Sub", ["batch", "one"], ["others"]),
            helper.make_node("Concat", ["others", "too_many"], ["wanted"], axis=0),
            helper.make_node("ConstantOfShape", ["wanted"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
            helper.make_node("Add", ["modest", "zero"], ["logits"]),
        ]
    )
    return model.SerializeToString()


def manifest(task: str = TASK, variant: str = "dense", **changes: object) -> Manifest:
    """A manifest of the tiny model, not sealed yet."""
    dense = Density(parameters=100, nonzero=10 if "sparse" in variant else 100)
    tensor = TensorSparsity(
        name="weight", shape=(10, 10), nonzero=dense.nonzero, pattern="unstructured", bits=32, group="encoder_linear"
    )
    fields: dict[str, object] = {
        "task": task,
        "variant": variant,
        "version": "0" * 16,
        "labels": LABELS,
        "problem_type": "single_label_classification",
        "architecture": "tiny",
        "precision": "fp32",
        "max_length": MAX_LENGTH,
        "pad_token_id": 0,
        "recipe": {},
        "lineage": Lineage(
            base_checkpoint="tiny", base_digest="0" * 64, data_source="none", data_digest="0" * 64, seed=0, libraries={}
        ),
        "sparsity": Sparsity(encoder_linear=dense, all_linear=dense, whole_model=dense, tensors=(tensor,)),
        "sizes": Sizes(onnx=1000, onnx_zipped=500),
        "flops": Flops(length=128, dense=1000, effective=100),
        "files": {},
    }
    return Manifest(**{**fields, **changes})


def publish(
    store: Store, task: str = TASK, variant: str = "dense", *, model: bytes | None = None, **changes: Any
) -> Bundle:
    """Publish a tiny bundle."""
    files = {"model.onnx": model or graph(seed=len(variant)), "tokenizer.json": tokenizer_json()}
    return store.publish(manifest(task, variant, **changes), files)


def sample_of(logits: list[list[float]]) -> tuple[SampleAnswer, ...]:
    """A sample that claims these logits for `good`, `bad`, ..."""
    words = ("good", "bad", "film")
    return tuple(SampleAnswer(text=text, logits=tuple(row)) for text, row in zip(words, logits, strict=False))
