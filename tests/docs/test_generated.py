"""The generated pages are current, and every metric has a word on when to worry."""

from __future__ import annotations

import re

import pytest

from probe.kernel.layout import Counter
from tests.docs import chart, man
from tests.docs.generate import PAGES, families, metric_names, stale
from tests.docs.pages import ROOT, Page, pages
from tests.docs.worry import KERNEL_EVENTS, WORRY

_METRIC = re.compile(r"\bkubeweir_(?:probe|streams)_[a-z_]+|\bkubeweir_ready\b")


def test_the_generated_pages_are_current() -> None:
    assert stale() == [], "run `make docs`"
    files = {f"deploy/kafka/{name}" for name in ("acls.sh", "topics.yaml", "users.yaml")}
    files |= set(chart.files(set())) | set(man.files())
    assert set(PAGES) == {"docs/settings.md", "docs/metrics.md", "docs/kafka-acls.md", "docs/hubble-flags.md"} | files


def test_every_metric_says_when_to_worry_and_no_other_does() -> None:
    assert {family.name for found in families().values() for family in found} == set(WORRY)


def test_every_event_of_the_kernel_is_explained() -> None:
    assert set(KERNEL_EVENTS) == {counter.name.lower() for counter in Counter}


@pytest.mark.parametrize("one", [one for one in pages() if one.name != "CHANGELOG.md"], ids=lambda one: one.name)
def test_every_metric_that_is_named_exists(one: Page) -> None:
    named = {name for name in _METRIC.findall(one.text) if not name.endswith("_")}
    assert named - metric_names() == set()


def test_the_alerts_that_are_named_are_in_the_rules() -> None:
    rules = (ROOT / "deploy/prometheus/kubeweir.rules.yml").read_text()
    known = set(re.findall(r"alert: (\w+)", rules))
    named = {name for one in pages() for name in re.findall(r"\bWeir[A-Z]\w+", one.text)}
    named |= {name for text in WORRY.values() for name in re.findall(r"\bWeir[A-Z]\w+", text)}
    assert named - known == set()
