"""The routes file while it is in use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from streams.config.hot_reload import HotReloadedFile
from streams.routes.model import Routes
from streams.routes.read import read

T = TypeVar("T")


class LiveRoutes(HotReloadedFile[Routes, T]):
    """See :class:`streams.config.hot_reload.HotReloadedFile`."""

    def __init__(self, path: Path, reserved: Iterable[str], make: Callable[[Routes], T]) -> None:
        """``reserved``: topics that no route may write."""
        kept = tuple(reserved)
        super().__init__("routes", "WEIR_ROUTES", path, lambda content, name: read(content, name, kept), make)
