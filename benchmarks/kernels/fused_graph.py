"""The fastest ONNX graph of a dense BERT classifier in onnxruntime, built from its weights node by node."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
OPSET = 17  # the first with LayerNormalization
IR_VERSION = 8  # the first with that opset: older runtimes read it too
MICROSOFT = "com.microsoft"


def fused_graph(model: Any) -> onnx.ModelProto:
    """Return the graph, which has rows of tokens [batch * length, width] wherever Attention does not need the batch.

    Rows let Gemm add the bias, and keep onnxruntime from fusing Add and LayerNormalization into SkipLayerNormalization,
    which cost more than the two apart (measured on AVX2 with 1.31: 14 ms instead of 7 in a BERT-base of 1 x 128).
    """
    graph, bert = _Graph(), model.bert
    width, embeddings = model.config.hidden_size, bert.embeddings
    # Attention and EmbedLayerNormalization do not accept int64.
    ids, mask, types = (graph.node("Cast", [name], f"{name}/int32", to=TensorProto.INT32) for name in INPUT_NAMES)
    batch_length = graph.node("Shape", ["input_ids"], "shape/batch_length")
    shape = graph.node("Concat", [batch_length, graph.constant("width", torch.tensor([width]))], "shape/hidden", axis=0)
    tables = [
        graph.constant(f"embeddings.{kind}", getattr(embeddings, f"{kind}_embeddings").weight)
        for kind in ("word", "position", "token_type")
    ]
    hidden = graph.node(
        "EmbedLayerNormalization",
        [ids, types, *tables, *graph.norm_parameters("embeddings.norm", embeddings.LayerNorm)],
        "embeddings/hidden",
        "embeddings/mask_index",
        domain=MICROSOFT,
        epsilon=embeddings.LayerNorm.eps,
    )
    rows = graph.rows("embeddings", hidden, width)
    for index, layer in enumerate(bert.encoder.layer):
        name, attention, output = f"layer.{index}", layer.attention.self, layer.attention.output
        projections = (attention.query, attention.key, attention.value)
        weight = graph.constant(f"{name}.qkv.weight", torch.cat([linear.weight for linear in projections]).T)
        bias = graph.constant(f"{name}.qkv.bias", torch.cat([linear.bias for linear in projections]))
        kept = attention.query.out_features  # smaller than the width if heads were removed
        context = graph.node(
            "Attention",
            [hidden, weight, bias, mask],
            f"{name}/context",
            domain=MICROSOFT,
            num_heads=kept // attention.attention_head_size,
        )
        values = graph.linear(f"{name}.attention.output", output.dense, graph.rows(f"{name}/context", context, kept))
        rows = graph.residual_norm(f"{name}.attention", output.LayerNorm, values, rows)
        values = graph.linear(f"{name}.ffn.intermediate", layer.intermediate.dense, rows)
        values = graph.node("Gelu", [values], f"{name}/gelu", domain=MICROSOFT)
        values = graph.linear(f"{name}.ffn.output", layer.output.dense, values)
        rows = graph.residual_norm(f"{name}.ffn", layer.output.LayerNorm, values, rows)
        hidden = graph.node("Reshape", [rows, shape], f"{name}/hidden")
    first = graph.node("Gather", [hidden, graph.constant("first", torch.tensor(0))], "first/hidden", axis=1)
    pooled = graph.node("Tanh", [graph.linear("pooler", bert.pooler.dense, first)], "pooler/tanh")
    logits = graph.linear("classifier", model.classifier, pooled)
    graph.node("Identity", [logits], "logits")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in INPUT_NAMES]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", model.config.num_labels])]
    body = helper.make_graph(graph.nodes, "encoder", inputs, outputs, list(graph.constants.values()))
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION)


@dataclass(frozen=True)
class _Graph:
    """Graph builder: every method returns the name of a tensor."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def constant(self, name: str, tensor: torch.Tensor) -> str:
        self.constants[name] = numpy_helper.from_array(tensor.detach().contiguous().numpy(), name)
        return name

    def node(self, operator: str, inputs: Sequence[str], *outputs: str, domain: str = "", **attributes: Any) -> str:
        node = helper.make_node(operator, inputs, outputs, name=outputs[0], domain=domain, **attributes)
        self.nodes.append(node)
        return outputs[0]

    def linear(self, name: str, module: nn.Linear, rows: str) -> str:
        """Add a linear layer: [rows, in] -> [rows, out]."""
        weight = self.constant(f"{name}.weight", module.weight.T)
        return self.node("Gemm", [rows, weight, self.constant(f"{name}.bias", module.bias)], f"{name}/linear")

    def rows(self, name: str, values: str, width: int) -> str:
        """Flatten: [batch, length, width] -> [batch * length, width]."""
        flat = self.constant(f"rows.{width}", torch.tensor([-1, width]))
        return self.node("Reshape", [values, flat], f"{name}/rows")

    def norm_parameters(self, name: str, module: nn.LayerNorm) -> list[str]:
        return [self.constant(f"{name}.weight", module.weight), self.constant(f"{name}.bias", module.bias)]

    def residual_norm(self, name: str, module: nn.LayerNorm, rows: str, residual: str) -> str:
        total = self.node("Add", [rows, residual], f"{name}/sum")
        parameters = self.norm_parameters(name, module)
        return self.node("LayerNormalization", [total, *parameters], f"{name}/norm", axis=-1, epsilon=module.eps)
