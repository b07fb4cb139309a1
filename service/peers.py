"""The other processes of a service, as one process sees them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sparserve.service.catalog.overrides import CatalogChange
    from sparserve.service.core import ServingCore
    from sparserve.service.experiments.ledger import Ledger
    from sparserve.service.settings import Settings


class Peers(Protocol):
    """The processes that together with this one look like one service."""

    settings: "Settings"
    """Settings of the whole service."""

    count: int
    """Number of processes that serve."""

    folder: Path
    """Folder of the files that the processes share."""

    @property
    def ledger(self) -> "Ledger":
        """Experiments of the whole service."""

    async def join(self, core: "ServingCore") -> None:
        """Become one of them, with the present state of the service; called before anything is loaded."""

    async def listening(self) -> None:
        """Return when this process should accept connections."""

    async def leave(self) -> None:
        """Report nothing more; called when this process has stopped."""

    def reason_not_ready(self) -> str | None:
        """Return why the others cannot answer, or None if they can."""

    async def change(self, change: "CatalogChange") -> None:
        """Change what is served in every process, this one included; if one refuses, none keeps the change.

        Raises:
            ServiceError: as raised by the process that refused.
        """

    async def state(self) -> dict[str, Any]:
        """Return the state of the whole service for its metrics, after each process has written its own."""
