"""Scopes of API keys, and the scope that each route needs. No other place decides this."""

import functools
from typing import Final

from sparserve.service.security.api_keys import Scope

ANY: Final = frozenset[Scope]({"classify", "admin"})
ADMIN: Final = frozenset[Scope]({"admin"})
CLASSIFY: Final = frozenset[Scope]({"classify"})
NONE: Final = frozenset[Scope]()

METRICS_PATH: Final = "/metrics"
# Open to everyone: probes, and pages that ask for the key themselves. They disclose nothing of models or traffic.
OPEN_PATHS: Final = frozenset(
    {"/", "/docs", "/openapi.json", "/livez", "/readyz", "/health", "/v2/health/live", "/v2/health/ready"}
)
OPEN_FOLDER: Final = "/pages/"
ADMIN_FOLDERS: Final = ("/v1/admin/", "/v2/repository/models/")
# The last part of a path that changes the models served. An action without a route does no harm in this list.
ADMIN_ACTIONS: Final = frozenset({"promote", "rollback", "pin", "unpin", "load", "unload"})
# Disagreements may hold other clients' texts.
ADMIN_ENDING: Final = "/disagreements"
# Everyone may read an experiment's figures; starting and ending one needs an administrator.
EXPERIMENTS_FOLDER: Final = "/v1/compare/"
# Reading these is harmless without keys: they list names and versions, as /v1/models does.
KEYLESS_ADMIN_READS: Final = frozenset({"/v1/admin/overrides"})
READ_ONLY_POSTS: Final = frozenset({"/v2/repository/index"})
READ_METHODS: Final = frozenset({"GET", "HEAD"})


@functools.lru_cache(maxsize=1024)
def required_scopes(method: str, path: str) -> frozenset[Scope]:
    """Return the scopes of which a key needs at least one; empty for paths that are open to everyone.

    A path that is not listed here needs a key, so a new route is never open by mistake. `path` may be a template.
    """
    if path in OPEN_PATHS or path.startswith(OPEN_FOLDER):
        return NONE
    if path.startswith(ADMIN_FOLDERS) or path.endswith(ADMIN_ENDING):
        return ADMIN
    if method in READ_METHODS or path in READ_ONLY_POSTS:
        return ANY
    changes_models = path.rpartition("/")[2] in ADMIN_ACTIONS or path.startswith(EXPERIMENTS_FOLDER)
    return ADMIN if changes_models else CLASSIFY
