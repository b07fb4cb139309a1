"""Exit codes of the service's processes."""

from typing import Final

EXIT_DROPPED: Final = 1  # some requests were not finished within the grace time
EXIT_USAGE: Final = 2  # a setting or the store is wrong
EXIT_NOT_STARTED: Final = 3
