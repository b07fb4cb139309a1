"""The exceptions of the offline job and of the bundle contract.

    SparserveError                exit code
    ├── InputError                2   an input of the user is wrong
    │   ├── DataError                 a file of labelled text, its columns, its rows
    │   ├── CheckpointError           a model folder or Hub id that cannot be compressed
    │   └── RecipeError               a recipe file or one of its fields
    ├── BundleError               3   a bundle that differs from its manifest
    ├── StoreError                3   a store without the requested task, variant or version
    ├── EnvironmentFault          4   disk full, folder or output not writable, an optional package missing
    ├── TrainingError             5   training that cannot continue (a loss that is not a number)
    ├── ParityError               6   an exported graph whose answers differ from the model's
    └── TargetError               7   a search without a trial that meets its targets

Every message names what is wrong and how to fix it.
"""


class SparserveError(Exception):
    """Base of everything the job raises on purpose; `exit_code` is the process's exit status."""

    exit_code = 1
    step: str | None = None
    """Name of the step of the job that failed; None outside of any step."""


class InputError(SparserveError):
    """An input of the user that cannot be used."""

    exit_code = 2


class DataError(InputError):
    """Labelled text that cannot be read or learned from."""


class CheckpointError(InputError):
    """A checkpoint that is missing, unsafe or not a transformer encoder."""


class RecipeError(InputError):
    """A recipe with an unknown field or a value out of range."""


class BundleError(SparserveError):
    """A bundle that fails verification: a digest, a path or a schema version is wrong."""

    exit_code = 3


class StoreError(SparserveError):
    """A store without the requested task, variant or version."""

    exit_code = 3


class EnvironmentFault(SparserveError):
    """A fault of the machine: disk full, folder or standard output not writable, optional package missing."""

    exit_code = 4


class TrainingError(SparserveError):
    """Training that cannot continue, for example because the loss is not a finite number."""

    exit_code = 5


class ParityError(SparserveError):
    """An exported graph whose answers differ from the model's by more than the tolerance."""

    exit_code = 6


class TargetError(SparserveError):
    """A search without a trial that meets its targets."""

    exit_code = 7
