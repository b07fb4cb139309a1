"""One server a peer, around the same classifier; each runs in an environment of its own, from the repository's root."""
