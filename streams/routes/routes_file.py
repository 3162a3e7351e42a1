"""Hot reload of the routes file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from streams.config.hot_reload import HotReloadedFile
from streams.routes.model import Routes
from streams.routes.read import read

T = TypeVar("T")


class RoutesFile(HotReloadedFile[Routes, T]):
    """The routes file in force; see :class:`streams.config.hot_reload.HotReloadedFile`."""

    def __init__(self, path: Path, reserved: Iterable[str], apply: Callable[[Routes], T]) -> None:
        """``reserved`` are the topics that routes must not write. ``apply`` puts the routes into force."""
        kept = tuple(reserved)
        super().__init__("routes", "WEIR_ROUTES", path, lambda content, name: read(content, name, kept), apply)
