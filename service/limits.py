"""Limits on the number and the length of a request's inputs, and on the bytes of all requests."""

from collections.abc import Callable, Sequence
from typing import Self

from sparserve.service.errors import TooLarge, TooManyBodies
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


class BodyBudget:
    """Bytes that the bodies of all requests together may have, from their arrival until their answers.

    Only bytes that have arrived count: a client that announces many and sends none takes nothing from the others.

    Args:
        on_refused: called for each body that is refused.
    """

    def __init__(self, max_bytes: int, on_refused: Callable[[], object] = lambda: None) -> None:
        self.max_bytes = max_bytes
        self.on_refused = on_refused
        self.held = 0


class BodyShare:
    """One body's part of a budget; a context manager that gives it back."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._bytes = 0

    def __enter__(self) -> Self:
        """Start with 0 bytes."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give all bytes back."""
        self._budget.held -= self._bytes
        self._bytes = 0

    def resize(self, count: int) -> None:
        """Set the size of the body to `count` bytes.

        Raises:
            TooManyBodies: the budget does not have them; the part keeps its size.
        """
        budget, more = self._budget, count - self._bytes
        if more > 0 and budget.held + more > budget.max_bytes:
            budget.on_refused()
            raise TooManyBodies(f"the bodies of all requests have more than {budget.max_bytes} bytes: try again soon")
        budget.held += more
        self._bytes = count
