"""Registry of the architectures that can be compressed, by the `model_type` of their configuration."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from sparserve.models.encoders.architectures.architecture import Architecture
from sparserve.models.encoders.architectures.bert import (
    BERT,
    CAMEMBERT,
    DISTILBERT,
    ELECTRA,
    MPNET,
    ROBERTA,
    XLM_ROBERTA,
)
from sparserve.models.encoders.architectures.deberta import DEBERTA_V2
from sparserve.models.encoders.architectures.modernbert import MODERNBERT
from sparserve.models.errors import CheckpointError

ARCHITECTURES: Final[Mapping[str, Architecture]] = MappingProxyType(
    {
        entry.model_type: entry
        for entry in (BERT, CAMEMBERT, DEBERTA_V2, DISTILBERT, ELECTRA, MODERNBERT, MPNET, ROBERTA, XLM_ROBERTA)
    }
)


def architecture_of(config: Any) -> Architecture:
    """Return the architecture of a configuration.

    Raises:
        CheckpointError: it is not in the registry.
    """
    model_type = getattr(config, "model_type", None)
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise CheckpointError(unknown(model_type))
    return ARCHITECTURES[model_type]


def unknown(model_type: Any) -> str:
    """Return the sentence that refuses a checkpoint of another architecture."""
    kind = f"is a {model_type!r} model" if model_type else "does not name its model_type"
    return f"{kind}, not an encoder that can be compressed here; those are: {', '.join(ARCHITECTURES)}"
