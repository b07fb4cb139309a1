"""Structures of the tiny checkpoints for tests of squeezing, and the logits of the networks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from sparserve.models.encoders.layers import Projection
from sparserve.models.encoders.structure import Structure
from tests.support.models.exporting import classifier

HEADS, UNITS, HIDDEN = 4, 48, 32
UNEVEN = Structure(heads=((0, 2, 3), (1,)), units=(tuple(range(0, UNITS, 3)), (5,)))
NARROW = UNEVEN.model_copy(update={"hidden": tuple(range(1, 28))})


def network_of(make_checkpoint: Callable[..., Path], name: str) -> Any:
    """Return a whole classifier; "electra-projected" has embeddings narrower than its hidden states."""
    if name != "electra-projected":
        return classifier(make_checkpoint(name))
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(make_checkpoint("electra"), embedding_size=16, num_labels=3)
    return AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()


def silence(rows: Projection, outputs: Sequence[int] | slice) -> None:
    """Set weights and biases of these outputs to zero."""
    rows.weight[outputs] = 0
    if rows.bias is not None:
        rows.bias[outputs] = 0


def texts() -> dict[str, torch.Tensor]:
    """Return three texts of 9, 4 and 1 tokens."""
    ids = torch.randint(5, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9) < torch.tensor([[9], [4], [1]])).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """Return the model's logits of `texts`."""
    values: torch.Tensor = model(**texts()).logits
    return values
