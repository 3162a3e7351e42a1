"""What goes to Kafka, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple


class Outgoing(NamedTuple):
    """Records for one topic: lists of one length."""

    keys: Sequence[bytes | None]
    values: Sequence[bytes]
    times_ms: Sequence[int]
    owners: Sequence[int]
    """The place of the input that each is accounted to."""

    def only(self, wanted: Sequence[bool]) -> Outgoing:
        """A part of them."""
        return Outgoing(
            list(compress(self.keys, wanted)),
            list(compress(self.values, wanted)),
            list(compress(self.times_ms, wanted)),
            list(compress(self.owners, wanted)),
        )
