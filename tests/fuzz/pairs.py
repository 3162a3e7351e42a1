"""What reads the pairs does with a record of them."""

from __future__ import annotations

import msgspec

from enrich.history.counted_time import CountedTime
from enrich.history.pair_hours import PairHours
from enrich.wire.pair import Pair
from enrich.wire.pair_coverage import decode_coverage, encode_coverage
from enrich.wire.pair_records import (
    PairRecordError,
    decode_counts,
    decode_names,
    encode_counts,
    encode_names,
    pairs_of,
)
from tests.enrich.wire.test_pair_coverage import COVERAGE
from tests.enrich.wire.test_pair_records import COLUMNS, HEADER, NAMES
from tests.fuzz.reader import Reader


class Pairs(Reader):
    """A record is refused by PairRecordError, or makes pairs that are valid, and is encoded as it was."""

    good = (encode_names(NAMES), encode_counts(HEADER, COLUMNS), encode_coverage(COVERAGE), b"c1/5f0c/names/2")

    def __call__(self, value: bytes) -> None:
        self._keyed(value)
        try:
            covered = decode_coverage(value)
            assert decode_coverage(encode_coverage(covered)) == covered
            time = CountedTime()
            time.take(covered)
            assert all(0 <= one.since_s < one.until_s <= 100 for one in time.holes(covered.cluster, 0, 100))
        except PairRecordError:
            pass
        names, counts = NAMES, decode_counts(self.good[1])
        try:
            names = decode_names(value)
            assert decode_names(encode_names(names)) == names
        except PairRecordError:
            try:
                counts = decode_counts(value)
                assert decode_counts(encode_counts(counts.header, counts.columns)).header == counts.header
            except PairRecordError:
                return
        for pair in pairs_of(names, counts):
            assert msgspec.convert(msgspec.to_builtins(pair), Pair) == pair

    @staticmethod
    def _keyed(value: bytes) -> None:
        """Take the bytes as a key, and as the value of a key of each kind."""
        hours = PairHours(494_971, 494_972)
        for key in (value, b"c1/5f0c/names/2", b"c1/5f0c/494971/2", b"c1/9e0c/coverage/0"):
            assert list(hours.take(key, value, 0)) == []
        for pair in hours.rest():
            assert msgspec.convert(msgspec.to_builtins(pair), Pair) == pair
