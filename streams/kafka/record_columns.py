"""Records for Kafka, as columns instead of objects: the enricher makes up to several thousand at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple


class RecordColumns(NamedTuple):
    """Records for one topic; all four sequences have the same length."""

    keys: Sequence[bytes | None]
    values: Sequence[bytes]
    times_ms: Sequence[int]
    owners: Sequence[int]
    """For each record, the index of the input it was made from. The input is in flight until Kafka has the record."""

    def pick(self, mask: Sequence[bool]) -> RecordColumns:
        """Return the records for which ``mask`` is true."""
        return RecordColumns(
            list(compress(self.keys, mask)),
            list(compress(self.values, mask)),
            list(compress(self.times_ms, mask)),
            list(compress(self.owners, mask)),
        )
