"""The trials of a search on disk, so that a repeated search does not make them again."""

from collections.abc import Collection
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from sparserve.models.bundle.manifest import Record
from sparserve.models.files import write_atomically
from sparserve.models.search.ladders import Candidate
from sparserve.models.search.outcomes import Outcome
from sparserve.models.search.search import MakeTrial

RECORD_SCHEMA_VERSION: Final = 2


class SearchRecord(Record):
    """The outcomes of all trials of one search so far."""

    schema_version: Literal[2] = RECORD_SCHEMA_VERSION
    outcomes: tuple[Outcome, ...] = ()


class RecordedTrials:
    """A maker of trials that makes no trial twice. It writes each outcome to a file before the next trial begins.

    The name of the file must contain a digest of everything that the outcomes depend on. A recorded outcome is used if
    all its bundles are in `stored`, pairs of variant and version; the outcome of a failed run has no bundles. A file
    that cannot be read counts as empty.
    """

    def __init__(self, path: Path, make: MakeTrial, *, stored: Collection[tuple[str, str]]) -> None:
        self._path = path
        self._make = make
        self._outcomes = {
            outcome.variant: outcome for outcome in _read(path).outcomes if outcome.bundles <= frozenset(stored)
        }

    def __call__(self, candidate: Candidate) -> Outcome:
        """Return the candidate's outcome, from the file if possible."""
        known = self._outcomes.get(candidate.variant)
        if known is not None:
            return known
        outcome = self._make(candidate)
        self._outcomes[candidate.variant] = outcome
        record = SearchRecord(outcomes=tuple(self._outcomes.values()))
        write_atomically(self._path, record.model_dump_json(indent=1) + "\n")
        return outcome


def _read(path: Path) -> SearchRecord:
    try:
        return SearchRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return SearchRecord()
