"""What reads the pairs does with a record of them."""

from __future__ import annotations

import msgspec

from enrich.wire.pair import Pair
from enrich.wire.pair_records import (
    PairRecordError,
    decode_counts,
    decode_names,
    encode_counts,
    encode_names,
    pairs_of,
)
from tests.enrich.wire.test_pair_records import COLUMNS, HEADER, NAMES
from tests.fuzz.reader import Reader


class Pairs(Reader):
    """A record is refused by PairRecordError, or makes pairs that are valid, and is encoded as it was."""

    good = (encode_names(NAMES), encode_counts(HEADER, COLUMNS))

    def __call__(self, value: bytes) -> None:
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
