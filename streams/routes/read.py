"""The routes file, read: YAML to checked values, every mistake with file, line and field."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from streams.config.yaml_file import FileError, read_checked
from streams.routes.check import check
from streams.routes.model import Routes

RoutesError = FileError


def read(content: bytes, name: str, reserved: Iterable[str] = ()) -> Routes:
    """The routes in a file's content. ``name`` is the file's, ``reserved`` the topics that no route may write.

    Raises :class:`RoutesError`.
    """
    return read_checked(content, name, Routes, partial(check, reserved=frozenset(reserved)))
