"""Dotted fields that make a shipped recipe fit a tiny network and take seconds."""

from typing import Any

from sparserve.models.recipes.schema import Recipe


def small_fields(recipe: Recipe) -> dict[str, Any]:
    """Fields that replace the recipe's, for a network of two layers and four heads."""
    fields: dict[str, Any] = {
        "max_length": 32,
        "teacher": {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3, "precision": "fp32"},
        # Else `smallest` has the student of `sparsebert-best`, which is cached and cannot be killed.
        "student.batch_size": 8 if recipe.name == "smallest" else 16,
        "student.precision": "fp32",
    }
    if recipe.student.epochs:
        fields |= {"student.epochs": 1, "student.learning_rate": recipe.student.learning_rate}
    if recipe.student.layers:
        fields["student.layers"] = 1
    if recipe.student.hidden_size:
        fields |= {"student.hidden_size": 16, "student.intermediate_size": 24}
    if recipe.augmentation:
        fields |= {"augmentation.variants": 2, "augmentation.candidates": 5}
    if recipe.squeeze:
        fields["squeeze.calibration"] = 96
    return fields
