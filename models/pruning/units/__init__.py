"""Methods that remove whole units (attention heads, feed-forward neurons), one per file."""
