"""What does not fit the policy maps, and writes that tell a full map from other errors."""

from __future__ import annotations

import errno
from collections.abc import Collection
from typing import Final

from probe.kernel.maps import Map

_FULL: Final = frozenset({errno.E2BIG, errno.ENOSPC, errno.ENOMEM})
"""What the kernel answers to an insertion: a hash is full, a trie is full, or there is no memory for the entry."""


class InstallError(RuntimeError):
    """The desired state was not installed. What was in force stays in force."""


class DoesNotFitError(InstallError):
    """Old and new entries together exceed a map. The message names the setting."""

    def __init__(self, table: str, needed: int, limit: int, new: Collection[bytes] = ()) -> None:
        """``new`` has the keys that the map lacks."""
        setting = f"WEIR_{table.upper()}"
        super().__init__(f"the map {table} holds {limit} entries, and policy needs {needed}: raise {setting}")
        self.table, self.needed, self.limit, self.new = table, needed, limit, new


def write(table: Map, key: bytes, value: bytes, used: int) -> None:
    """Write an entry. Raises DoesNotFitError if the kernel has no room beside the ``used`` entries, OSError else."""
    try:
        table.set(key, value)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DoesNotFitError(table.name, used + 1, used) from error
