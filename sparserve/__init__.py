"""Small, fast transformer text classifiers for plain CPUs: the public Python API.

    import sparserve

    report = sparserve.compress("reviews.csv")
    classify = sparserve.Classifier.load("store", report.task)
    print(classify(["a gorgeous, witty, seductive movie"]))

Every name is imported at its first use, so `import sparserve` alone loads neither torch nor FastAPI. `compress` and
`search` need the extra `compress`; everything else works with the base installation.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparserve.classifier import Classifier, Prediction
    from sparserve.compression import SearchResult, compress, search
    from sparserve.models.bundle.bundle import Bundle
    from sparserve.models.bundle.inference import load_bundle
    from sparserve.models.bundle.store import Store
    from sparserve.models.errors import SparserveError
    from sparserve.models.report.schema import Report
    from sparserve.service.app import create_app
    from sparserve.service.version import VERSION as __version__

__all__ = [
    "Bundle",
    "Classifier",
    "Prediction",
    "Report",
    "SearchResult",
    "SparserveError",
    "Store",
    "__version__",
    "compress",
    "create_app",
    "load_bundle",
    "search",
]

# Public name: its module, and its name there.
_SOURCES = {
    "Bundle": ("sparserve.models.bundle.bundle", "Bundle"),
    "Classifier": ("sparserve.classifier", "Classifier"),
    "Prediction": ("sparserve.classifier", "Prediction"),
    "Report": ("sparserve.models.report.schema", "Report"),
    "SearchResult": ("sparserve.compression", "SearchResult"),
    "SparserveError": ("sparserve.models.errors", "SparserveError"),
    "Store": ("sparserve.models.bundle.store", "Store"),
    "__version__": ("sparserve.service.version", "VERSION"),
    "compress": ("sparserve.compression", "compress"),
    "create_app": ("sparserve.service.app", "create_app"),
    "load_bundle": ("sparserve.models.bundle.inference", "load_bundle"),
    "search": ("sparserve.compression", "search"),
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _SOURCES[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
