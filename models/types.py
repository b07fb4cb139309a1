"""Function types that several packages of the job share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

Progress = Callable[[int, int, str], None]
"""Called with the work that is done, all of it, and a few words about it."""
Loss = Callable[["nn.Module", dict[str, "torch.Tensor"], "torch.Tensor"], "torch.Tensor"]
"""A loss from the model, its inputs and the numbers of the batch's rows [batch]."""
