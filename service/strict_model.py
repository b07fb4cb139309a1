"""What a client may send is closed: fields that are not known are refused, in one message, however many there are."""

from itertools import islice
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, model_validator

# Of what a client has made up, so much is repeated to it.
NAMED_FIELDS: Final = 3
NAME_CHARACTERS: Final = 40


class StrictModel(BaseModel):
    """A model without unknown fields."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _fields_are_known(cls, value: Any) -> Any:
        # Looked at before pydantic does, which would make an error of every one.
        if isinstance(value, dict) and not value.keys() <= cls.model_fields.keys():
            unknown = islice((name for name in value if name not in cls.model_fields), NAMED_FIELDS)
            named = ", ".join(ascii(str(name)[:NAME_CHARACTERS]) for name in unknown)
            raise ValueError(f"unknown fields, such as {named}; the fields are {', '.join(cls.model_fields)}")
        return value
