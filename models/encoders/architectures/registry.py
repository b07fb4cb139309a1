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
from sparserve.models.encoders.architectures.rotary_bert import GTE, JINA_V3, NOMIC_BERT
from sparserve.models.errors import CheckpointError

ARCHITECTURES: Final[Mapping[str, Architecture]] = MappingProxyType(
    {
        entry.model_type: entry
        for entry in (
            BERT, CAMEMBERT, DEBERTA_V2, DISTILBERT, ELECTRA, GTE, JINA_V3, MODERNBERT, MPNET, NOMIC_BERT, ROBERTA,
            XLM_ROBERTA,
        )
    }
)  # fmt: skip
# Names of architectures that exist as code beside their weights only, and the names under which transformers has them.
RENAMED: Final[Mapping[str, str]] = MappingProxyType({"new": "gte"})


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
    if isinstance(model_type, str) and model_type in RENAMED:
        return (
            f"is a {model_type!r} model, which needs the code of its repository, and such code is never run: take the "
            f"checkpoint as transformers has it, with the model_type {RENAMED[model_type]!r}"
        )
    kind = f"is a {model_type!r} model" if model_type else "does not name its model_type"
    return f"{kind}, not an encoder that can be compressed here; those are: {', '.join(ARCHITECTURES)}"
