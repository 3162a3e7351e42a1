"""What an account is made of, kept in a file: a mended account can judge the same run again."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.custody.packets import Packet
from tests.custody.script import Script


class Evidence(NamedTuple):
    """The script of a run, everything that was captured and everything that was logged."""

    script: Script
    packets: Sequence[Packet]
    records: Sequence[dict[str, Any]]
    policies: Sequence[dict[str, Any]]
    """Records of the status topic that say what a node's epochs stand for."""

    def save(self, path: Path) -> None:
        """Write everything to a file."""
        with path.open("wb") as file:
            pickle.dump(tuple(self), file, pickle.HIGHEST_PROTOCOL)


def load(path: Path) -> Evidence:
    """Read what :meth:`Evidence.save` has written. The file must be one's own: unpickling runs what is in it."""
    with path.open("rb") as file:
        return Evidence(*pickle.load(file))  # noqa: S301 - as said above
