"""Base class of request bodies: unknown fields are refused, in one message."""

from itertools import islice
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, model_validator

# A message repeats this much of the client's unknown fields.
NAMED_FIELDS: Final = 3
NAME_CHARACTERS: Final = 40


class StrictModel(BaseModel):
    """Model that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, value: Any) -> Any:
        # Before pydantic's own check, which would report each of them.
        fields = cls.__pydantic_fields__
        if isinstance(value, dict) and not value.keys() <= fields.keys():
            unknown = islice((name for name in value if name not in fields), NAMED_FIELDS)
            named = ", ".join(ascii(str(name)[:NAME_CHARACTERS]) for name in unknown)
            raise ValueError(f"unknown fields, such as {named}; the fields are {', '.join(fields)}")
        return value
