"""What was seen, as advice needs it, has a bound."""

from __future__ import annotations

import pytest

from enrich.history.advice.traffic import traffic_of
from enrich.history.pair_hours import TooManyPairsError
from enrich.wire.pair import HOUR_NS, Pair
from tests.enrich.history.test_pair_hours import HOUR, key_to


def test_more_combinations_than_fit_into_memory_have_no_answer_instead_of_a_part_of_one() -> None:
    pairs = [
        Pair(cluster="c1", hour=HOUR + hour, key=key_to(number), verdicts=1, packets=1, first_ns=HOUR * HOUR_NS,
             last_ns=HOUR * HOUR_NS)
        for hour in range(3)
        for number in range(10)
    ]  # fmt: skip

    assert sum(one.connections for one in traffic_of(pairs, {}, max_distinct=10).left_out.values()) == 30
    with pytest.raises(TooManyPairsError, match="more than 9 distinct combinations were seen up to 2026-06-1"):
        traffic_of(pairs, {}, max_distinct=9)
    assert not traffic_of(pairs, {}, "another", max_distinct=9).left_out
