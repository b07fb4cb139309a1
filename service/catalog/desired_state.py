"""The desired state of the catalog, as the store describes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sparserve.models.bundle.store import Store
from sparserve.models.errors import StoreError
from sparserve.service.catalog.snapshot import ModelKey


@dataclass(frozen=True)
class DesiredState:
    """Versions that should be served, the default variant of each task, and the reason why a variant is damaged."""

    versions: dict[ModelKey, str] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)
    damaged: dict[ModelKey, str] = field(default_factory=dict)


def read_desired_state(store: Store, pins: Mapping[ModelKey, str]) -> DesiredState:
    """Read the store; a pinned version takes precedence over the current version of its variant.

    Raises:
        OSError, StoreError: the store cannot be read, or is empty.
    """
    if not store.root.is_dir():
        raise StoreError("it does not exist: publish a bundle there")
    desired = DesiredState()
    for task in store.tasks():
        try:
            desired.defaults[task] = store.default_variant(task)
        except StoreError:  # deleted since it was listed
            continue
        for variant in store.variants(task):
            key = (task, variant)
            try:
                version = pins.get(key) or store.current(task, variant)
                store.folder(task, variant, version)
            except (OSError, StoreError) as error:
                desired.damaged[key] = str(error)
            else:
                desired.versions[key] = version
    if not desired.defaults:
        raise StoreError("it holds no bundle: publish one")
    return desired
