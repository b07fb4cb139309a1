"""Templates of exported graphs for all processes of a test run: tracing a network takes ten seconds."""

import os
import pickle
from hashlib import sha256
from pathlib import Path

from sparserve.models.export import onnx_export
from sparserve.models.export.templates import Template, Templates


class StoredTemplates(dict[str, Template]):
    """Templates in a folder, a file each."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def get(self, key: str, default: Template | None = None) -> Template | None:  # type: ignore[override]
        path = self._path(key)
        if key not in self and path.exists():
            super().__setitem__(key, pickle.loads(path.read_bytes()))
        return super().get(key, default)

    def __setitem__(self, key: str, template: Template) -> None:
        super().__setitem__(key, template)
        path = self._path(key)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(pickle.dumps(template))
        unfinished.rename(path)

    def _path(self, key: str) -> Path:
        return self._folder / sha256(key.encode()).hexdigest()


def share_templates(folder: Path) -> None:
    """Let exports of this process use and leave templates in a folder."""
    folder.mkdir(exist_ok=True)
    onnx_export.templates = Templates(StoredTemplates(folder))
