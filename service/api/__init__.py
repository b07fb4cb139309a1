"""HTTP routes: the native API, and in `dialects` the protocols of other servers."""
