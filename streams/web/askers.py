"""Remembers who the API server says has a token, so that all tokens of one person count together."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Final

_MAX_KEPT: Final = 8192


class Askers:
    """The names of the bearers of tokens. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: OrderedDict[str, str] = OrderedDict()

    def note(self, token: str, name: str) -> None:
        """Remember whose a token is."""
        with self._lock:
            self._names[_hash(token)] = name
            self._names.move_to_end(_hash(token))
            while len(self._names) > _MAX_KEPT:
                self._names.popitem(last=False)

    def name(self, token: str) -> str:
        """Return whose a token is; something that stands for the token alone if that is not known any more."""
        with self._lock:
            return self._names.get(_hash(token), f"token {_hash(token)}")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
