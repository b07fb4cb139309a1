"""Catalog of served models: desired state, loaded engines, and changes while serving."""
