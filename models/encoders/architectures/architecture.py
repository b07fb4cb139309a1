"""An architecture: the names of an encoder's parts, and how they work together.

Everything that depends on the family of a network (pruning targets, squeezing, attention scores, operations,
augmentation, packing) reads an `Architecture`. Nothing else compares a `model_type`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

Positions = Literal["table", "table after padding", "rotary", "disentangled"]


@dataclass(frozen=True)
class Rows:
    """Rows of a linear that play one role: all, or one of several equal groups of a fused linear."""

    module: str
    group: int = 0
    groups: int = 1


@dataclass(frozen=True)
class LayerNames:
    """Names of a layer's linears and norms, relative to the layer.

    `norms` are in the order of execution. Of gated feed-forwards the outputs of `intermediate` are activated and then
    multiplied by those of `gate`. `position_query` and `position_key` project a table of relative positions.
    """

    query: Rows
    key: Rows
    value: Rows
    attention_output: str
    intermediate: Rows
    output: str
    norms: tuple[str, str]
    gate: Rows | None = None
    position_query: str | None = None
    position_key: str | None = None

    @property
    def linears(self) -> tuple[str, ...]:
        """Names of the linears that are pruned, each once."""
        rows = (self.query, self.key, self.value, self.intermediate, *((self.gate,) if self.gate else ()))
        return tuple(dict.fromkeys((*(part.module for part in rows), self.attention_output, self.output)))


@dataclass(frozen=True)
class StoredNames:
    """Names of weights in files that differ from those in the network: transformers renames and splits them.

    `renamed` are patterns of old names with their replacements, applied in this order. `fused` are parts of such names
    of weights whose rows are those of several others of equal size, with the parts of their names, in their order.
    """

    renamed: tuple[tuple[str, str], ...] = ()
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def in_network(self, stored: str) -> tuple[str, ...]:
        """Return the names in the network of the parts of a stored weight, mostly one."""
        for pattern, replacement in self.renamed:
            stored = re.sub(pattern, replacement, stored)
        return next(
            (
                tuple(stored.replace(part, name) for name in names)
                for part, names in self.fused.items()
                if part in stored
            ),
            (stored,),
        )


@dataclass(frozen=True)
class LayerAttention:
    """Attention of one layer: a token sees those at most `band` positions away (None: all).

    `theta` is that of its RoPE, whose angles are divided by `factor`.
    """

    band: int | None = None
    theta: float | None = None
    factor: float = 1.0

    def pairs(self, length: int) -> int:
        """Return the number of pairs of a query and a key in a text of `length` tokens."""
        if self.band is None or self.band >= length:
            return length**2
        outside = length - self.band - 1
        return length**2 - outside * (outside + 1)


@dataclass(frozen=True)
class Architecture:
    """One family of encoders, by its name in `config.json`. Module names are relative to the base model.

    Attributes:
        model_type: name of the family.
        stack: the list of layers.
        layer: names within a layer.
        positions: kind of positions. "table after padding" counts them from the padding id, as RoBERTa does.
        position_types: names that the family's files give that kind in `position_embedding_type`, if they have it.
        token_table: the token embeddings.
        embedding_projection: linear from the embeddings' width to the hidden width; absent if they are equal.
        hidden_modules: norms and tables, besides those of embeddings and layers, that have the hidden width.
        head_readers: linears of classification heads that read hidden states, by the end of their names.
        norm_first: each half of a layer begins with its norm (pre-norm), instead of ending with it (post-norm).
        masked_lm_parameter: a stored parameter that only the head of the masked LM has, in the whole model.
        config_names: fields of the configuration whose name differs from BERT's.
        stored: names of weights in files, where they differ from the network's.
        ignored_fields: fields of the configuration that transformers ignores, with the value that its network has.
        older_fields: older names of such fields, which transformers does not read, and its own.
        replaces_code: folders may have code of this network (`auto_map`). It is never run: transformers has it too.
    """

    model_type: str
    stack: str
    layer: LayerNames
    positions: Positions
    masked_lm_parameter: str
    position_types: frozenset[str] = frozenset({"absolute"})
    token_table: str = "embeddings.word_embeddings"
    embedding_projection: str | None = None
    hidden_modules: tuple[str, ...] = ()
    head_readers: tuple[str, ...] = ("pooler.dense", "classifier.dense")
    norm_first: bool = False
    config_names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    stored: StoredNames = StoredNames()
    ignored_fields: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    older_fields: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    replaces_code: bool = False

    def has_position_table(self, config: Any) -> bool:
        """Return True if every position has an embedding, so that texts cannot be longer than the table."""
        return self.positions not in ("rotary", "disentangled")

    def config_name(self, name: str) -> str:
        """Return this family's name of a field of BERT's configuration."""
        return self.config_names.get(name, name)

    def check(self, config: Any) -> str | None:
        """Return the reason why this configuration describes a network that is not supported; None if it is."""
        return None

    def longest_text(self, config: Any) -> int:
        """Return the number of tokens that a text may have."""
        offset = config.pad_token_id + 1 if self.positions == "table after padding" else 0
        return int(config.max_position_embeddings) - offset

    def attention(self, config: Any) -> tuple[LayerAttention, ...]:
        """Return the attention of every layer, the lowest first."""
        return (LayerAttention(),) * int(config.num_hidden_layers)

    def score_products(self, config: Any) -> int:
        """Return the number of inner products that a score is the sum of."""
        return 1

    def takes_types(self, config: Any) -> bool:
        """Return True if the two texts of a pair are marked by types, with an embedding each."""
        return bool(getattr(config, "type_vocab_size", 1))

    def pools_mean(self, config: Any) -> bool:
        """Return True if the classification head reads the mean of all tokens, False if it reads the first one."""
        return False

    def scores(self, attention: nn.Module, query: Tensor, key: Tensor, keywords: Mapping[str, Any]) -> Tensor:
        """Return the scores before the softmax [batch, heads, length, length] of queries and keys of such shape.

        `attention` is the layer's attention module and `keywords` are those of its call. MPNet's bias of relative
        positions is not part of the scores: no linear of the encoder computes it.
        """
        return query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])

    @property
    def final_norm(self) -> str | None:
        """Name of the norm behind the last layer, which encoders have whose layers begin with their norms."""
        return self.hidden_modules[-1] if self.norm_first and self.hidden_modules else None

    def smaller_config(self, config: Any, layers: tuple[int, ...] | None, width: int | None) -> dict[str, Any]:
        """Return further fields of the configuration that change with the kept layers or the hidden width."""
        return {}


def split_heads(projected: Tensor, head_size: int) -> Tensor:
    """Reshape [batch, length, heads * d] to [batch, heads, length, d]."""
    batch, length, _ = projected.shape
    return torch.transpose(projected.view(batch, length, -1, head_size), 1, 2)
