"""Methods that prune single weights, one per file."""
