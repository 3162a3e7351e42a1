"""A folder that holds the last state of policies of an optional kind, as the server sent them, a file for each.

A probe that starts while the server does not serve the kind would otherwise open what these policies close.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import structlog

from enrich.runtime.private import make_private_folder, open_private

log = structlog.get_logger("kubeweir.source")

_MAX_BYTES: Final = 4 << 20
"""etcd takes no object of this size."""
_UNFINISHED: Final = ".unfinished"
"""No object has this name: a name begins with a letter or a digit."""


class _Stored(msgspec.Struct):
    definition: str
    """The UID of the CustomResourceDefinition under which the object was seen."""
    object: msgspec.Raw


_decode: Final = msgspec.json.Decoder(_Stored).decode


class PolicyStore:
    """The stored objects of one kind. A folder that cannot be written is reported, and stops nothing."""

    def __init__(self, folder: Path) -> None:
        self.problem: str | None = None
        """Why the last state cannot be stored; None if it is."""
        self._folder = folder
        self._saved: dict[str, bytes] = {}

    def load(self) -> Iterator[tuple[str, msgspec.Raw]]:
        """Yield the definition's UID and the JSON of each object. A file that cannot be read is logged and left out."""
        try:
            make_private_folder(self._folder)
            paths = sorted(path for path in self._folder.iterdir() if path.name != _UNFINISHED)
        except OSError as error:
            self._report(error)
            return
        for path in paths:
            try:
                with path.open("rb") as file:
                    content = file.read(_MAX_BYTES)
                stored = _decode(content)
            except (OSError, ValueError) as error:
                log.error("a stored policy cannot be read, and is left out", file=str(path), error=str(error))
                continue
            self._saved[path.name] = content
            yield stored.definition, stored.object

    def save(self, name: str, definition: str, raw: bytes) -> None:
        """Store an object."""
        content = msgspec.json.encode(_Stored(definition, msgspec.Raw(raw)))
        if self._saved.get(name) == content:
            return
        unfinished = self._folder / _UNFINISHED
        try:
            with open(unfinished, "wb", opener=open_private) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self._folder / name)
        except OSError as error:
            self._report(error)
            return
        self._saved[name], self.problem = content, None

    def remove(self, name: str) -> None:
        """Forget an object."""
        self._saved.pop(name, None)
        try:
            (self._folder / name).unlink(missing_ok=True)
        except OSError as error:
            self._report(error)

    def _report(self, error: OSError) -> None:
        self.problem = f"policies cannot be stored in {self._folder} ({error.strerror}): a restart may lose them"
        log.error("policies cannot be stored: a restart may lose them", folder=str(self._folder), error=str(error))
