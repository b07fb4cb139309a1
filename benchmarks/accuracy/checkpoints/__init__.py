"""Checkpoints of the accuracy benchmark that are not the default one, from pip packages."""
