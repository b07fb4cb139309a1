"""What a store says should be served: the version of each variant, the tasks' defaults, and what is damaged."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sparserve.models.bundle.store import Store
from sparserve.models.errors import StoreError
from sparserve.service.catalog.snapshot import Key


@dataclass(frozen=True)
class Wanted:
    """One look at a store; `damaged` says of a variant why it is."""

    versions: dict[Key, str] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)
    damaged: dict[Key, str] = field(default_factory=dict)


def wanted_of(store: Store, pins: Mapping[Key, str]) -> Wanted:
    """What should be served now; `pins` go before the versions that the store says.

    Raises:
        OSError, StoreError: the store cannot be read, or holds nothing.
    """
    if not store.root.is_dir():
        raise StoreError("it does not exist: publish a bundle there")
    wanted = Wanted()
    for task in store.tasks():
        try:
            wanted.defaults[task] = store.default_variant(task)
        except StoreError:  # it has gone since
            continue
        for variant in store.variants(task):
            key = (task, variant)
            try:
                version = pins.get(key) or store.current(task, variant)
                store.folder(task, variant, version)
            except (OSError, StoreError) as error:
                wanted.damaged[key] = str(error)
            else:
                wanted.versions[key] = version
    if not wanted.defaults:
        raise StoreError("it holds no bundle: publish one")
    return wanted
