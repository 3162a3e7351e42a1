"""The counter of verdicts: what is counted about whom, and how many subjects have labels of their own."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from enrich.render.enricher import Enricher, Records
from enrich.render.merged_batch import merge
from enrich.runtime.settings import SettingsError, load
from enrich.wire.batch import AGGREGATED, INGRESS, EndpointRef, Reason, Verdict
from streams.metrics.label_values import VerdictsBy
from streams.metrics.verdicts import VerdictCounter
from streams.settings import Settings
from tests.enrich.flows import make_batch, make_cluster

DENIED = {"verdict": Verdict.DENY | INGRESS, "reason": Reason.DEFAULT_DENY, "rule": 2}


def records(*verdicts: dict[str, Any], **header: Any) -> Records:
    return Enricher(make_cluster()).records(merge(make_batch(*verdicts, **header)))


def counted(by: VerdictsBy, most: int, *batches: Records) -> tuple[dict[tuple[str, ...], float], float]:
    """Label values to count, and how many subjects had no label of their own."""
    registry = CollectorRegistry()
    verdicts = VerdictCounter(registry, by, most)
    for batch in batches:
        assert batch.columns is not None
        verdicts.count(batch.columns.templates, batch.columns.template)
    found = {
        tuple(sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "kubeweir_streams_verdicts_total"
    }
    more = registry.get_sample_value("kubeweir_streams_verdict_subjects_over_limit_total")
    assert more is not None
    return found, more


def test_the_setting_takes_its_words_only() -> None:
    assert load(Settings, {"WEIR_VERDICTS_BY": "workload"}).verdicts_by == "workload"
    with pytest.raises(SettingsError, match="WEIR_VERDICTS_BY='pod': must be none, namespace, workload"):
        load(Settings, {"WEIR_VERDICTS_BY": "pod"})


def test_verdicts_are_counted_by_what_was_decided() -> None:
    batch = records({}, {}, DENIED, DENIED | {"endpoint": 8, "flags": AGGREGATED})
    assert counted("none", 10, batch, batch) == (
        {("allow", "egress", "policy"): 4, ("deny", "ingress", "default_deny"): 4},
        0,
    )


def test_the_subject_is_the_pod_whose_policy_decided() -> None:
    batch = records({}, DENIED, DENIED | {"endpoint": 8}, {"endpoint": 99})
    assert counted("workload", 10, batch)[0] == {
        ("allow", "egress", "policy", "shop", "Deployment/web"): 1,
        ("deny", "ingress", "default_deny", "shop", "Deployment/web"): 1,
        ("deny", "ingress", "default_deny", "gone", ""): 1,
        ("allow", "egress", "policy", "", ""): 1,
    }


@pytest.mark.parametrize(("by", "labels"), [("namespace", 1), ("workload", 2)])
def test_past_the_limit_all_share_one_label_and_are_counted_once(by: VerdictsBy, labels: int) -> None:
    def of(name: str) -> Records:
        return records({"endpoint": 1}, endpoints={"1": EndpointRef(name, "p", f"uid-{name}")})

    found, more = counted(by, 2, of("a"), of("b"), of("c"), of("d"), of("c"), of("a"))
    subjects = {key[3]: value for key, value in found.items()}
    assert subjects == {"a": 2, "b": 1, "_other": 3}
    assert more == 2
    assert ("allow", "egress", "policy", *["_other"] * labels) in found
