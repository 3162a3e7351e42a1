"""``make bench-policy`` measures what it says, in the shape that it says. No figure is judged here."""

from __future__ import annotations

import json

import pytest

from tests.bench_policy import LIMITS_MS, run, table

pytestmark = pytest.mark.kernel


def test_the_bench_measures_each_size_and_the_growth() -> None:
    figures = run((20, 60), rounds=2)
    assert [one["pods"] for one in figures["sizes"]] == [20, 60]
    for one in figures["sizes"]:
        assert all(one[name] > 0 for name in (*LIMITS_MS, "first whole", "rss_mb"))
        assert one["addresses"] >= one["pods"]
        assert one["new pod entries"] == 1, "a pod of known labels is one entry"
        assert one["changed policy entries"] > 0
    (growth,) = figures["growth"]
    assert set(growth) == {"pods", *LIMITS_MS}
    text = table(figures)
    assert all(name in text for name in figures["sizes"][0] if name != "pods")
    json.dumps(figures)
