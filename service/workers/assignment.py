"""A worker's assignment: its number, and the descriptors and files that it shares with the other processes."""

import json
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass
from typing import Final, Self

from sparserve.service.settings import Settings

VARIABLE: Final = "SPARSERVE_WORKER"


@dataclass(frozen=True)
class Assignment:
    """Facts that the supervisor gives to a worker, in an environment variable.

    Attributes:
        number: 0 to `count` - 1. A worker that replaces a dead one has its number.
        count: workers of the service.
        channel: descriptor of the socket to the supervisor.
        listeners: descriptors of the listening sockets.
        grpc_port: the port of gRPC, chosen by the supervisor if the setting is 0.
        folder: of the files that all processes map into their memory.
        replacement: True if other workers answer, so that this one starts to accept connections when its models are
            loaded.
    """

    number: int
    count: int
    channel: int
    listeners: tuple[int, ...]
    grpc_port: int | None
    folder: str
    replacement: bool

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Self | None:
        """Take the assignment out of the environment; None in a process that is not a worker."""
        text = environment.pop(VARIABLE, None)
        if text is None:
            return None
        facts = json.loads(text)
        return cls(**{**facts, "listeners": tuple(facts["listeners"])})

    def to_environment(self) -> dict[str, str]:
        """Return the environment variable."""
        return {VARIABLE: json.dumps(asdict(self))}

    def settings_of(self, settings: Settings) -> Settings:
        """Return the settings of this worker: its part of every limit that is one of the whole service."""
        count = self.count
        threads = settings.total_threads // count + (self.number < settings.total_threads % count)
        changes = {
            "threads": max(threads, 1),
            "concurrency": settings.concurrency and max(settings.concurrency // count, 1),
            "grpc_port": self.grpc_port,
            "max_model_bytes": settings.max_model_bytes and max(settings.max_model_bytes // count, 1),
            "max_bodies_bytes": max(settings.max_bodies_bytes // count, settings.max_body_bytes),
            "max_waiting_inputs": -(-settings.max_waiting_inputs // count),
            "max_waiting_tokens": -(-settings.max_waiting_tokens // count),
        }
        return settings.model_copy(update=changes)
