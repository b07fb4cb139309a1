"""Requests of too many inputs, or of too long ones, are refused."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationInfo

from sparserve.service.errors import TooLarge
from sparserve.service.settings import Settings

if TYPE_CHECKING:
    from sparserve.service.api.schemas import TextInput


def check_count(count: int, limit: int) -> None:
    """Refuse more inputs than `limit`; to be asked before anything is made of them.

    Raises:
        TooLarge: there are more.
    """
    if count > limit:
        raise TooLarge(f"the request has {count} inputs, the limit is {limit}: send it in parts")


def check_count_here(inputs: list[Any], info: ValidationInfo) -> None:
    """Refuse more inputs than the `max_items` of the validation's context, if it has one, before any is looked at.

    Raises:
        TooLarge: there are more.
    """
    if info.context is not None:
        check_count(len(inputs), info.context["max_items"])


def check_size(inputs: "Sequence[TextInput]", settings: Settings) -> None:
    """Refuse more inputs, or longer ones, than the settings allow.

    Raises:
        TooLarge: naming the limit and the first input over it.
    """
    check_count(len(inputs), settings.max_items)
    for position, item in enumerate(inputs):
        if item.characters > settings.max_characters:
            raise TooLarge(
                f"item {position} has {item.characters} characters, the limit is {settings.max_characters}: shorten it"
            )
