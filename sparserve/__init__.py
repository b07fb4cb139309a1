"""Transformer text classifiers, 10-20x smaller and faster on plain CPUs."""

from importlib.metadata import version

__version__ = version("sparserve")
