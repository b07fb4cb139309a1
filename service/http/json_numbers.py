"""Whole numbers as JSON Schema has them: 3.0 is one, in JSON there is only one kind of number."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# The bound stands within: outside of the validator it would be checked, but not be in the schema.
PositiveWhole = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
