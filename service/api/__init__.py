"""HTTP routes, one protocol per file."""
