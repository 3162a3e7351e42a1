"""How long ago each kind of call last worked."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from enrich.runtime.last_success import LastSuccess
from tests.clock import Clock


def test_ages_begin_at_the_start_and_then_at_the_last_success() -> None:
    registry, clock = CollectorRegistry(), Clock()
    ages = LastSuccess(registry, "streams", ("fetch", "commit"), clock)

    def age(call: str) -> float | None:
        return registry.get_sample_value("kubeweir_streams_last_success_age_seconds", {"call": call})

    clock.now += 30
    assert (age("fetch"), age("commit"), age("watch")) == (30, 30, None)
    ages.note("fetch")
    ages.read("watch", lambda: 4.0)
    clock.now += 5
    assert (age("fetch"), age("commit"), age("watch")) == (5, 35, 4)
    assert ages.in_words() == ["last success: fetch 5 s ago, commit never, watch 4 s ago; the process started 35 s ago"]


def test_an_age_that_is_not_known_is_left_out() -> None:
    registry = CollectorRegistry()
    ages = LastSuccess(registry, "probe", ())
    ages.read("watch", lambda: None)
    assert ages.in_words() == []
    assert registry.get_sample_value("kubeweir_probe_last_success_age_seconds", {"call": "watch"}) is None
