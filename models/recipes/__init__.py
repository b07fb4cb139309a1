"""Recipes: the schema, how they are loaded, and those that ship."""
