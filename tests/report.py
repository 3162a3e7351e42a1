"""Counts and times of a test run by ring, and the reasons for skips: written by each pytest process, merged at the end.

As a pytest plugin (``-p tests.report --report FILE``) it counts; :func:`merged` and :func:`lines` make the summary.
A ring is the outside world that a test needs (``kernel``, ``kafka``, ``cluster``, ``e2e``); ``unit`` needs none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

RINGS: Final = ("unit", "kernel", "kafka", "cluster", "e2e")


def ring_of(item: pytest.Item) -> str:
    """Return the outermost ring among a test's markers."""
    names = {marker.name for marker in item.iter_markers()}
    return next((ring for ring in reversed(RINGS) if ring in names), RINGS[0])


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--report``."""
    parser.addoption("--report", type=Path, help="file for the counts and times of each ring, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Collect the report if it is requested."""
    path = config.getoption("--report")
    if path is not None:
        config.pluginmanager.register(Report(path), "kubeweir-report")


class RingReport(msgspec.Struct):
    """What one ring did. ``seconds`` includes set-up and teardown of fixtures."""

    seconds: float = 0.0
    passed: int = 0
    failed: int = 0
    skipped: dict[str, int] = {}
    """Tests by the reason for which they were skipped."""


class Report:
    """A pytest plugin that counts and writes the report to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ring_of: dict[str, str] = {}
        self.rings = {ring: RingReport() for ring in RINGS}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Remember the ring of each test, because a report does not carry its item."""
        self._ring_of = {item.nodeid: ring_of(item) for item in session.items}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one phase of one test, and write the report after each test, because the process may not end well."""
        ring = self.rings[self._ring_of.get(report.nodeid, RINGS[0])]
        ring.seconds += report.duration
        if report.failed:
            ring.failed += 1
        elif report.skipped and not hasattr(report, "wasxfail"):
            reason = _reason(report.longrepr)
            ring.skipped[reason] = ring.skipped.get(reason, 0) + 1
        elif report.when == "call":
            ring.passed += 1
        if report.when == "teardown":
            self.path.write_bytes(msgspec.json.encode(self.rings))


def _reason(longrepr: Any) -> str:
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return str(text).removeprefix("Skipped: ")


def merged(paths: Iterable[Path]) -> dict[str, RingReport]:
    """Add up the reports of several processes; a process that died before its first test ended has left none."""
    total = {ring: RingReport() for ring in RINGS}
    for path in paths:
        if not path.exists() or not path.stat().st_size:
            continue
        for name, ring in msgspec.convert(json.loads(path.read_bytes()), dict[str, RingReport]).items():
            into = total[name]
            into.seconds += ring.seconds
            into.passed += ring.passed
            into.failed += ring.failed
            for reason, count in ring.skipped.items():
                into.skipped[reason] = into.skipped.get(reason, 0) + count
    return total


def lines(rings: dict[str, RingReport]) -> list[str]:
    """Render the report: one line per ring that ran, then one line per reason for skips."""
    made = [
        f"  {name:8} {ring.passed:5} passed {ring.failed:3} failed {sum(ring.skipped.values()):3} skipped"
        f" {ring.seconds:7.0f} s"
        for name, ring in rings.items()
        if ring.passed or ring.failed or ring.skipped
    ]
    reasons: dict[str, int] = {}
    for ring in rings.values():
        for reason, count in ring.skipped.items():
            reasons[reason] = reasons.get(reason, 0) + count
    made += [f"  skipped {count}: {reason}" for reason, count in reasons.items()]
    return made if reasons else [*made, "  nothing was skipped"]
