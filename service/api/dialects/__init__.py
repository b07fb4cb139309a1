"""Protocols of other servers, one per file: their paths, bodies and answers."""
