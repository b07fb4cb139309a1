"""The fields of a request that say what happens to texts with more tokens than the model takes."""

from pydantic import BaseModel, ConfigDict, Field

from sparserve.models.bundle.windows import Aggregate, Overlong
from sparserve.service.errors import InvalidRequest
from sparserve.service.http.json_body import NonNegativeInt
from sparserve.service.types import DEFAULT_LONG_TEXTS, LongTextOptions


class LongTextFields(BaseModel):
    """Fields that every protocol takes beside those of its clients; null for the task's default."""

    model_config = ConfigDict(strict=True)

    overlong: Overlong | None = Field(
        None,
        description="cut a text with more tokens than the model takes, refuse it (422), or answer it in windows of so "
        "many tokens; by default as the task's bundle says",
    )
    stride: NonNegativeInt | None = Field(
        None, description="tokens that a window shares with the one before, at most half of the model's"
    )
    aggregate: Aggregate | None = Field(
        None, description="scores of a text from those of its windows: their mean or maximum, or those of the first one"
    )

    def long_texts(self, truncate: bool | None = None, *, fallback: Overlong = "truncate") -> LongTextOptions:
        """Return the options; `truncate` is the protocol's own field for them.

        `fallback` applies to a task whose bundle has no default.

        Raises:
            InvalidRequest: `truncate` contradicts `overlong`.
        """
        overlong = self.overlong
        if truncate is not None:
            asked: Overlong = "truncate" if truncate else "error"
            if overlong is not None and overlong != asked:
                raise InvalidRequest(
                    f'overlong "{overlong}" contradicts the request\'s field for truncation: drop that'
                )
            overlong = asked
        if overlong is None and self.stride is None and self.aggregate is None and fallback == "truncate":
            return DEFAULT_LONG_TEXTS
        return LongTextOptions(overlong, self.stride, self.aggregate, fallback)
