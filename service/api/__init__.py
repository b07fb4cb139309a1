"""One protocol, or one part of the native one, a file; each has a `router`."""
