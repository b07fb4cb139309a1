"""Changes of what is served, as values that processes of a service can send to each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

Action = Literal["pin", "rollback", "unpin", "load", "unload", "default", "refresh"]


@dataclass(frozen=True)
class CatalogChange:
    """An order of an administrator; the fields are the arguments of the catalog's method."""

    action: Action
    task: str = ""
    variant: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class CatalogOverrides:
    """Changes made to a running service, by task and variant. They take precedence over the store and the settings.

    They end with the service.
    """

    pins: Mapping[tuple[str, str], str] = field(default_factory=dict)
    unloaded: frozenset[tuple[str, str]] = frozenset()

    def to_message(self) -> dict[str, Any]:
        """Return the changes as JSON can hold them."""
        return {"pins": [[*key, version] for key, version in self.pins.items()], "unloaded": sorted(self.unloaded)}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Self:
        """Return the changes of a message."""
        pins = {(task, variant): version for task, variant, version in message["pins"]}
        return cls(pins, frozenset((task, variant) for task, variant in message["unloaded"]))
