"""Augmentation: additional training texts, with words replaced, swapped or dropped."""
