"""Limits on the number and the length of a request's inputs."""

from collections.abc import Sequence

from sparserve.service.errors import TooLarge
from sparserve.service.types import TextInput


def check_count(count: int, limit: int) -> None:
    """Refuse more than `limit` inputs. Call this before doing any work for each input.

    Raises:
        TooLarge: there are more.
    """
    if count > limit:
        raise TooLarge(f"the request has {count} inputs, the limit is {limit}: send it in parts")


def check_size(inputs: Sequence[TextInput], *, max_items: int, max_characters: int) -> None:
    """Refuse more than `max_items` inputs, and inputs of more than `max_characters`.

    Raises:
        TooLarge: names the limit and the first input over it.
    """
    check_count(len(inputs), max_items)
    for position, item in enumerate(inputs):
        if item.characters > max_characters:
            raise TooLarge(
                f"item {position} has {item.characters} characters, the limit is {max_characters}: shorten it"
            )
