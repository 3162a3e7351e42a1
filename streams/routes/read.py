"""Reads the routes file: YAML to checked values. Every mistake is reported with file, line and field."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from streams.config.yaml_file import FileError, read_checked
from streams.routes.check import check
from streams.routes.model import Routes

RoutesError = FileError


def read(content: bytes, name: str, reserved: Iterable[str] = ()) -> Routes:
    """Return the routes in the content of a file. ``name`` is the file's name, for messages. ``reserved`` are the
    topics that routes must not write.

    Raises :class:`RoutesError`.
    """
    return read_checked(content, name, Routes, partial(check, reserved=frozenset(reserved)))
