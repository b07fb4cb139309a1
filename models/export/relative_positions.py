"""DeBERTa's relative positions, as the sparse runtime takes them: an embedding for each distance of two tokens."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import layer_norm
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from sparserve.kernels.weights import RelativePositions
from sparserve.models.errors import CheckpointError

_TABLE: Final = "encoder.rel_embeddings.weight"
_NORM: Final = "encoder.LayerNorm"


def relative_positions(
    tensors: Mapping[str, npt.NDArray[np.float32]], config: Any, positions: int
) -> RelativePositions:
    """Return the embeddings for texts of up to `positions` tokens, from the parameters of the base model by name.

    Raises:
        CheckpointError: the sparse runtime does not support such relative positions.
    """
    kinds = sorted(set(config.pos_att_type or ()))
    if kinds != ["c2p", "p2c"] or not getattr(config, "share_att_key", False):
        raise CheckpointError(
            "The sparse runtime supports relative positions of both kinds, c2p and p2c, that share the projections of "
            f"keys and queries. This network has pos_att_type {kinds} and share_att_key "
            f"{getattr(config, 'share_att_key', False)}. model.onnx serves it."
        )
    table = torch.tensor(tensors[_TABLE])
    if f"{_NORM}.weight" in tensors:
        weight, bias = (torch.tensor(tensors[f"{_NORM}.{name}"]) for name in ("weight", "bias"))
        table = layer_norm(table, table.shape[1:], weight, bias, config.layer_norm_eps)
    longest = config.max_relative_positions if config.max_relative_positions > 0 else config.max_position_embeddings
    span = config.position_buckets if config.position_buckets > 0 else longest
    distances = torch.arange(-positions + 1, positions)
    if config.position_buckets > 0:
        distances = make_log_bucket_position(distances, config.position_buckets, longest).long()
    rows = torch.clamp(distances + span, 0, 2 * span - 1)
    return RelativePositions(table.numpy(), rows.numpy())
