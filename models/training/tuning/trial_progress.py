"""Progress of the trials of one search as a whole, which never falls."""

from sparserve.models.types import Progress


class TrialProgress:
    """Adds the steps of trials up.

    Args:
        progress: gets the steps so far, those of all trials, and the title of the running one.
        total: steps of all trials together, at most.
    """

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._begins: dict[str, int] = {}
        self._done = 0

    def of(self, trial: str, steps: int, title: str) -> Progress:
        """Return the progress of a trial of so many steps.

        Trials are counted by name, once, also those that an earlier run has recorded.
        """
        if trial not in self._begins:
            self._begins[trial] = self._done
            self._done += steps
        begin = self._begins[trial]

        def advance(done: int, _total: int, _: str) -> None:
            self._progress(min(begin + done, self._total), self._total, title)

        return advance
