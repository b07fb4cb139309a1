"""Scales of the accuracy benchmark: a checkpoint, its tasks, and the methods with their levels."""

from benchmarks.accuracy.scales.base import BASE
from benchmarks.accuracy.scales.choices import CHOICES
from benchmarks.accuracy.scales.small import SMALL, SMALLER

SCALES = {scale.name: scale for scale in (SMALL, SMALLER, BASE, CHOICES)}
