"""A worker's view of the experiments, which its supervisor keeps for all workers."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from sparserve.service.experiments.experiment import Experiment, Observation
from sparserve.service.experiments.ledger import Models
from sparserve.service.settings import Policy
from sparserve.service.workers.channel import Channel

# Observations that are sent together, at the latest at the next flush.
BATCH: Final = 64


class RemoteLedger:
    """Sends observations in batches, so that no request waits for the supervisor, and asks for figures.

    Attributes:
        leads: True in the one worker whose versions decide when statistics restart: while a new version arrives in one
            worker after the other, they would restart back and forth.
    """

    def __init__(self, channel: Channel) -> None:
        self.experiments: dict[str, Experiment] = {}
        self.leads = False
        self._channel = channel
        self._pending: list[dict[str, Any]] = []
        self._restarted: dict[str, tuple[str, Models]] = {}

    def update(self, experiments: Mapping[str, Any]) -> None:
        """Replace the experiments; called with every change of one."""
        self.experiments = {task: Experiment.from_message(message) for task, message in experiments.items()}

    def restart(self, task: str, experiment: Experiment, models: Models) -> None:
        """Ask once for other statistics; they begin with a later `update`."""
        if self.leads and self._restarted.get(task) != (experiment.id, models):
            self._restarted[task] = (experiment.id, models)
            self._channel.tell("restart", task=task, id=experiment.id, models=[asdict(one) for one in models])

    def observe(self, task: str, experiment: Experiment, observation: Observation) -> None:
        """Note an observation for the next batch."""
        self._add({"task": task, "id": experiment.id, "observation": asdict(observation)})

    def not_compared(self, task: str, experiment: Experiment) -> None:
        """Note a request that was not compared for the next batch."""
        self._add({"task": task, "id": experiment.id, "observation": None})

    async def begin(self, task: str, policy: Policy, models: Models) -> Experiment:
        """Begin an experiment for all workers."""
        content = {"policy": policy.model_dump(mode="json"), "models": [asdict(one) for one in models]}
        return Experiment.from_message(await self._channel.ask("begin", task=task, **content))

    async def end(self, task: str) -> Experiment | None:
        """End a task's experiment for all workers, and return it with its figures."""
        self.flush()
        message = await self._channel.ask("end", task=task)
        return message and Experiment.from_message(message)

    async def read(self, task: str) -> Experiment | None:
        """Return a task's experiment with its figures."""
        self.flush()
        message = await self._channel.ask("read", task=task)
        return message and Experiment.from_message(message)

    def flush(self) -> None:
        """Send what was noted. It is lost if the supervisor does not read."""
        if self._pending:
            pending, self._pending = self._pending, []
            self._channel.tell("observe", observations=pending)

    def _add(self, observation: dict[str, Any]) -> None:
        self._pending.append(observation)
        if len(self._pending) >= BATCH:
            self.flush()
