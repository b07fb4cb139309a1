"""The version of this distribution."""

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("sparserve")
    except PackageNotFoundError:  # run from a source tree
        return "0+source"


VERSION = _installed()
