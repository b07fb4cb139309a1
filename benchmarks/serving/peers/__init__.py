"""One server per peer around the same classifier. Each runs in a separate environment, from the repository root."""
