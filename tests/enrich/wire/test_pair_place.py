"""The keys of the topic of pairs: what is written is read back, and nothing else is taken for it."""

from __future__ import annotations

import pytest

from enrich.wire.pair_place import RecordPlace, counts_key, coverage_key, names_key, place_of

ARN = "arn:aws:eks:eu-west-1:1234:cluster/names/7"


@pytest.mark.parametrize("cluster", ["c1", ARN, "a/b/names/c", "5f0c/494971/2"])
def test_a_key_says_what_its_record_is_whatever_the_name_of_the_cluster(cluster: str) -> None:
    assert place_of(names_key(cluster, "5f0c", 2)) == RecordPlace(cluster, "5f0c", "names", 2)
    assert place_of(counts_key(cluster, "5f0c", 494_971, 0)) == RecordPlace(cluster, "5f0c", "counts", 0, 494_971)
    assert place_of(coverage_key(cluster, "5f0c")) == RecordPlace(cluster, "5f0c", "coverage", 0)


@pytest.mark.parametrize(
    "key",
    ["", "x", "c1/names/2", "/5f0c/names/2", "c1/5f0c/names/02", "c1/5f0c/names/4096", "c1/5f0c/names/-1",
     "c1/5f0c/1048576/1", "c1/5f0c/names/2\n", "c 1/5f0c/names/2", "c1/5f0c/name/2", "c1/5f0c/coverage/1",
     "c1/5f0c/\u0663/2", "c1//names/2", f"c1/{'s' * 65}/names/2", f"{'c' * 254}/5f0c/names/2"],
)  # fmt: skip
def test_what_no_worker_writes_is_no_key(key: str) -> None:
    assert place_of(key.encode()) is None
