"""The desired state of the catalog, as the store describes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sparserve.models.bundle.store import Store
from sparserve.models.errors import StoreError
from sparserve.service.catalog.snapshot import ModelKey


@dataclass(frozen=True)
class DesiredState:
    """Versions that should be served, and the default variant of each task.

    `damaged` has the reasons why variants are refused, `refused` those why whole tasks are. `misnamed` are folders
    that would be tasks if their names were valid.
    """

    versions: dict[ModelKey, str] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)
    damaged: dict[ModelKey, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    misnamed: tuple[Path, ...] = ()


def read_desired_state(store: Store, pins: Mapping[ModelKey, str]) -> DesiredState:
    """Read the store; a pinned version takes precedence over the current version of its variant.

    A fault of one task or variant is a part of the result.

    Raises:
        OSError, StoreError: the store cannot be read, or is empty.
    """
    if not store.root.is_dir():
        raise StoreError("it does not exist: publish a bundle there")
    desired = DesiredState(misnamed=tuple(store.misnamed()))
    for task in store.tasks():
        try:
            variants = store.variants(task)
            if not variants:  # deleted since it was listed
                continue
            desired.defaults[task] = store.default_variant(task)
        except (OSError, StoreError) as error:
            desired.refused[task] = str(error)
            continue
        for variant in variants:
            key = (task, variant)
            try:
                version = pins.get(key) or store.current(task, variant)
                store.folder(task, variant, version)
            except (OSError, StoreError) as error:
                desired.damaged[key] = str(error)
            else:
                desired.versions[key] = version
    if not desired.defaults and not desired.refused:
        raise StoreError("it holds no bundle: publish one")
    return desired
