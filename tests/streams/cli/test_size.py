"""`weir size`: its figures are those of the pages, and what it says grows as the cluster does."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from enrich.wire.topics import topics
from streams.cli.main import command
from streams.cli.size_command import quantity
from streams.cli.size_estimate import Estimate, estimate, raw_bytes
from streams.cli.size_facts import FACTS, RAW_BYTES_LARGE, RAW_BYTES_SMALL, Fact

_DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("name", FACTS)
def test_each_figure_is_on_its_page(name: str) -> None:
    one: Fact = FACTS[name]
    words = " ".join((_DOCS / one.page).read_text().split())
    assert one.says, name
    assert one.says in words, f"docs/{one.page} no longer says {one.says!r}: correct {name}"


def size(*, nodes: int = 100, pods: int = 5_000, connections: float = 2_000, replication: int = 3) -> Estimate:
    return estimate(nodes, pods, connections, replication, "kubeweir")


def numbers(one: Estimate) -> dict[str, float]:
    """Everything of an estimate that is a number, by name."""
    found = {name: value for name, value in asdict(one).items() if isinstance(value, int | float)}
    return found | {
        f"{topic.name} {field}": getattr(topic, field)
        for topic in one.topics
        for field in ("bytes_a_day", "bytes_kept")
    }


@pytest.mark.parametrize(
    "more", [{"nodes": 1_000}, {"pods": 200_000}, {"connections": 5e6}, {"connections": 2_001}, {"replication": 4}]
)
def test_nothing_gets_less_in_a_larger_cluster(more: dict[str, Any]) -> None:
    before, after = numbers(size()), numbers(size(**more))
    assert {name for name, value in after.items() if value < before[name]} == set()
    assert after != before


def test_a_small_cluster_needs_the_least_and_a_large_one_more_partitions_than_workers() -> None:
    small = size(nodes=1, pods=1, connections=0)
    assert (small.workers, small.partitions, small.brokers, small.notes) == (2, 32, 3, ())
    assert small.topics[0].bytes_a_day == 0
    large = size(nodes=5_000, pods=200_000, connections=5e6)
    assert large.workers > 32
    assert large.partitions >= 2 * large.workers
    assert large.worker_limit_mib > 3_072
    assert len(large.notes) == 2


def test_the_bytes_of_a_verdict_are_those_that_were_measured_at_both_sizes_and_between_them_otherwise() -> None:
    assert raw_bytes(100) == pytest.approx(RAW_BYTES_SMALL.value)  # ten in a tenth of a second
    assert raw_bytes(10_000) == pytest.approx(RAW_BYTES_LARGE.value)
    assert RAW_BYTES_LARGE.value < raw_bytes(1_000) < RAW_BYTES_SMALL.value < raw_bytes(1)
    assert raw_bytes(0) == raw_bytes(10)  # no batch has less than one


def test_each_topic_is_kept_as_the_services_make_it() -> None:
    made = {one.name: int(one.config["retention.ms"]) / 86_400_000 for one in topics("kubeweir", 32)}
    assert {one.name: one.days for one in size().topics}.items() <= made.items()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (9_940, "9.9 kB"), (9_960, "10 kB"), (999_600, "1.0 MB"),
     (131e9, "131 GB"), (5e18, "5,000 PB")],
)  # fmt: skip
def test_bytes_in_words(count: float, text: str) -> None:
    assert quantity(count) == text


def test_both_forms_say_the_same_and_what_is_assumed() -> None:
    words = ["size", "--nodes", "100", "--pods", "5000", "--connections", "2000"]
    text, made = CliRunner().invoke(command, words), CliRunner().invoke(command, [*words, "-o", "json"])
    assert (text.exit_code, made.exit_code) == (0, 0)
    found = json.loads(made.stdout)
    assert found["verdicts_a_second"] == 4_000
    assert "4,000 verdicts a second" in text.stdout
    for assumption in found["assumptions"]:
        assert assumption in text.stdout
    assert {one["name"] for one in found["topics"]} <= set(text.stdout.split())
    assert found["facts"]["probe_mib"] == {"value": 230, "source": "docs/measurements.md"}
    assert "2,000 new connections" in text.stdout
    many = CliRunner().invoke(command, ["size", "--nodes", "9", "--pods", "99", "--connections", "1234567"])
    assert "1,234,567 new connections" in many.stdout
    assert CliRunner().invoke(command, ["size", "--nodes", "0", "--pods", "1", "--connections", "1"]).exit_code == 2
