"""Tests of the bench: its counts add up, its JSON has the right fields, and plain Faust does the same work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from enrich.index.cluster import Cluster
from enrich.render.enricher import Enricher
from enrich.render.fragments import DEFAULT_LABELS, LabelChoice
from enrich.render.merged_batch import merge
from enrich.sources.manifests import ManifestSource
from enrich.wire.batch import decode_batch
from tests.bench.groups import CASES
from tests.bench.plain import PlainEnricher
from tests.bench.verdicts import make_batches, make_objects, make_verdicts, write_manifests

ROOT = Path(__file__).parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.kernel
@pytest.mark.kafka
@pytest.mark.timeout(900)
def test_a_quick_bench_runs_counts_everything_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = bench("--quick", "--json", str(tmp_path / "bench.json"))
    assert done.returncode == 0, done.stderr
    assert "Nanoseconds per packet" in done.stdout
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["quick"] is True
    assert {"cpu", "cores", "kernel", "kafka", "librdkafka", "faust-streaming"} <= set(report["machine"])
    assert list(report["parts"]) == ["packets", "evictions", "ring", "streams", "alerts", "churn"]
    for part in report["parts"].values():
        for figure in part["figures"]:
            assert set(figure) == {"case", "measure", "median", "min", "max", "samples", "aim"}
            assert 0 < figure["min"] <= figure["median"] <= figure["max"]
    assert_counts(**{name: part["counts"] for name, part in report["parts"].items()})
    aims = {(f["case"], f["aim"]) for part in report["parts"].values() for f in part["figures"] if f["aim"]}
    assert aims == {
        ("established, v4", 120),
        ("established, v6", 120),
        ("ring to Kafka", 500_000),
        ("weir-streams, batches of 1,000", 40),
        ("the same with ten routes that match 1 in 7", 0.85),
        ("counting pairs, in one process", 0.95),
        ("800 denies per second", 3),
        ("100 pod changes a second", 0.8),
        ("100 pod changes a second, 1 in 50 unsettled", 0.8),
        *((f"1,000 groups in a window, {case}", 200) for case in CASES),
    }
    # Another bench may run on this machine: a folder's name ends with the id of its process.
    pins = Path("/sys/fs/bpf").glob("weir-bench-*")
    assert not [path for path in pins if not Path("/proc", path.name.rpartition("-")[2]).exists()]
    assert not list(ROOT.glob("bench*.enrich-data")), "Faust's folders are left"


def assert_counts(
    packets: dict[str, int],
    evictions: dict[str, int],
    ring: dict[str, int],
    streams: dict[str, int],
    alerts: dict[str, int],
    churn: dict[str, int],
) -> None:
    assert packets["new_verdicts"] == packets["new"] > 0
    assert packets["denied_counted"] == packets["denied"] > 0
    assert evictions["at_limit"] >= evictions["evicted"] > 0.9 * evictions["at_limit"] > 0
    assert ring["read_back"] == ring["acknowledged"] == ring["verdicts"] > 0
    assert ring["lost"] == 0
    assert streams["flows"] == streams["verdicts"] > 0
    assert streams["flows_denied"] == streams["denied"] > 0
    assert alerts["denies_counted"] == alerts["denies"] > 0
    assert alerts["groups_kept"] == alerts["groups"] > 0
    assert churn["records"] == churn["verdicts"] > 0


def test_plain_faust_makes_the_same_records(tmp_path: Path) -> None:
    write_manifests(tmp_path / "manifests")
    cluster = Cluster()
    source = ManifestSource(tmp_path / "manifests", cluster)
    source.start()
    try:
        verdicts = make_verdicts("n3", 200)
        batches = [decode_batch(value) for value in make_batches("n3", verdicts, 30)]
        enricher = Enricher(cluster)
        assert [enricher.lookup(merge(batch)).unsettled for batch in batches] == [None] * len(batches), (
            "a verdict has to wait"
        )
        ours = [orjson.loads(value) for batch in batches for value in enricher.records(merge(batch)).values]
        plain = PlainEnricher(cluster, LabelChoice.of(DEFAULT_LABELS))
        theirs = [plain.record(orjson.loads(value)) for value in make_objects("n3", verdicts)]
    finally:
        source.stop()
    # The times differ, because each side computes the offset of the clocks itself; all other fields must be equal.
    for record in (*ours, *theirs):
        assert record.pop("timestamp") == record.pop("last_timestamp")
    assert ours == theirs
    assert {record["disposition"] for record in ours} == {"allow", "deny"}
    assert {"workload_name", "labels", "zone"} <= set(ours[0]["src"]) | set(ours[0]["dest"])


def test_help_lists_all_options() -> None:
    done = bench("--help")
    assert done.returncode == 0
    assert {"--only", "--quick", "--json"} <= set(done.stdout.split())
    assert bench("--only", "nothing").returncode == 2
