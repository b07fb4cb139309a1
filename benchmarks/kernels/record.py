"""The result file of the kernel benchmark: a run for each shape, written after every cell.

An interrupted run is resumed by the same command: cells that the file has are not measured again. A shape's cells all
belong to one run, with equal settings on one machine.
"""

import datetime
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sparserve.models.files import write_atomically

Cell = tuple[int, int, int]  # batch, length, threads


class Record:
    """Results by shape.

    Args:
        path: the file; it need not exist.
        conditions: machine, kernels and settings of this run, all of them JSON values.
        replace: shapes that were measured in other conditions are measured again, and their results dropped.
    """

    def __init__(self, path: Path, conditions: Mapping[str, Any], *, replace: bool = False) -> None:
        self.path = path
        self._conditions = dict(conditions)
        self._replace = replace
        self.shapes: dict[str, Any] = json.loads(path.read_bytes())["shapes"] if path.exists() else {}

    def begin(self, shape: str, cells: Iterable[Cell]) -> list[Cell]:
        """Prepare a shape, and return those of its cells that are still to be measured.

        Raises:
            SystemExit: the file has results of the shape from other conditions; names them and the way out.
        """
        known = self.shapes.get(shape)
        if known and known["conditions"] != self._conditions:
            if not self._replace:
                changed = [key for key in self._conditions if known["conditions"].get(key) != self._conditions[key]]
                raise SystemExit(
                    f"{self.path} has {shape} from {known['measured_at']} in other conditions ({', '.join(changed)}): "
                    "--replace measures it again, --output FILE keeps both"
                )
            known = None
        if known is None:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            known = {"measured_at": now, "conditions": self._conditions, "cells": [], "profiles": {}, "files": {}}
        done = {(cell["batch"], cell["length"], cell["threads"]) for cell in known["cells"]}
        missing = [cell for cell in cells if cell not in done]
        if missing:
            self.shapes[shape] = known
        return missing

    def add(self, shape: str, cell: Mapping[str, Any], **facts: Mapping[str, Any]) -> None:
        """Add a measured cell, and facts of its shape, such as `files`; write the file."""
        known = self.shapes[shape]
        known["cells"].append(dict(cell))
        known["cells"].sort(key=lambda one: (one["threads"], one["batch"], one["length"]))
        for name, values in facts.items():
            known[name] = {**known.get(name, {}), **values}
        write_atomically(self.path, json.dumps({"shapes": self.shapes}, indent=1) + "\n")
