"""The file of the interfaces that are surely not a pod's, by which the next probe leaves them alone from its start on.

A probe with ``WEIR_UNKNOWN=closed`` closes at its start what may be a pod's interface. The addresses behind it may say
that it is not, but only once all pods of the node are known. That takes a second, or as long as the API server is away.
Without this file, a container of Docker would have no network for as long after each restart of the probe.

An interface is known by its index and its name. Neither says that it is still the same one, so the reader must not
believe the file alone (``probe.unknown_interfaces``). It is in the folder that lives as long as the pins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import structlog

from enrich.runtime.state_file import DamagedError, read_state, replace_state, set_aside

log = structlog.get_logger("kubeweir.probe")

_CONSEQUENCE: Final = "interfaces that are not a pod's are closed at the start, until their addresses are read"
_decode: Final = msgspec.json.Decoder(dict[int, str]).decode


class LeftInterfaces:
    """Interfaces that are left alone because of the addresses behind them: name by index. One caller at a time."""

    def __init__(self, path: Path) -> None:
        """Read what the last probe wrote to ``path``, if it did."""
        self._path = path
        self.names = _read(path)
        self._is_behind = False
        """Whether the file was removed because the disk did not take the newest content."""

    def save(self, names: Mapping[int, str]) -> None:
        """Replace the content, and the file if it differs. A disk that takes nothing is logged."""
        content = dict(names)
        if content == self.names and not self._is_behind:
            return
        self.names = content
        try:
            replace_state(self._path, msgspec.json.encode(content))
        except OSError as error:
            if not self._is_behind:
                log.error("interfaces that are not a pod's cannot be stored: a restart closes them for a moment",
                          file=str(self._path), error=str(error))  # fmt: skip
            self._is_behind = True
            # It may have an interface that is closed by now.
            with contextlib.suppress(OSError):
                self._path.unlink()
            return
        self._is_behind = False


def _read(path: Path) -> dict[int, str]:
    try:
        return _decode(read_state(path))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError, DamagedError) as error:
        set_aside(path, "left interfaces", str(error), _CONSEQUENCE)
        return {}
