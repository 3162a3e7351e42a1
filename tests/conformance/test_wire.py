"""Tests that the wire mode tells other outcomes from silence: a network that refuses, and one that drops answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest
from netns import ip

from tests.conformance.case import Row, load, rows
from tests.conformance.fleet import Fleet
from tests.conformance.state import State
from tests.conformance.suite import OWN
from tests.conformance.wire import Wire

pytestmark = pytest.mark.kernel

SOURCE, DESTINATION = "shop/web", "shop/db"


class Bench:
    """The first step of a case, and the rows between two of its pods."""

    def __init__(self, fleet: Fleet, wire: Wire, family: int) -> None:
        case = load(OWN / "own-nodes-and-blocks.json", family)
        self.state = State(case)
        self.space = fleet.space
        for action in case.steps[0].actions:
            self.state.apply(action)
        fleet.arrange(self.state, fresh=True)
        fleet.install(self.state)
        self._wire = wire
        between = [row for row in rows(case.steps[0].expect) if (row.source, row.destination) == (SOURCE, DESTINATION)]
        self.open = [row for row in between if row.allowed]
        self.closed = [row for row in between if not row.allowed]
        assert {row.protocol.name for row in self.open} == {"TCP", "SCTP"}

    def outcomes(self, rows: Sequence[Row]) -> set[str]:
        return set(self._wire.probe(self.state, rows))


@pytest.fixture(scope="module")
def _wires(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Wire]]:
    with closing(Fleet(tmp_path_factory.mktemp("fleet"))) as fleet, closing(Wire(fleet)) as wire:
        yield fleet, wire


@pytest.fixture(params=[4, 6])
def bench(request: pytest.FixtureRequest, _wires: tuple[Fleet, Wire]) -> Bench:
    return Bench(*_wires, request.param)


def test_a_connection_is_allowed_and_silence_is_denied(bench: Bench) -> None:
    assert bench.outcomes(bench.open) == {"allowed"}
    assert bench.outcomes(bench.closed) == {"denied"}


def test_a_refusal_is_not_a_denial(bench: Bench) -> None:
    """The node answers each protocol with the ICMP error "administratively prohibited"."""
    expected = [row._replace(allowed=False) for row in bench.open]
    node, address = bench.space(bench.state, "node:n1"), bench.state.ip(DESTINATION)
    ip(node, f"route add prohibit {address}")
    try:
        outcomes = bench.outcomes(expected)
    finally:
        ip(node, f"route del prohibit {address}")
    assert len(outcomes) == 1
    assert outcomes.pop().startswith("refused (")
    assert bench.outcomes(bench.open) == {"allowed"}


def test_an_unanswered_packet_that_arrives_is_not_a_denial(bench: Bench) -> None:
    """The destination has no route back, which is as if only the answers were dropped."""
    expected = [row._replace(allowed=False) for row in bench.open]
    pod, address = bench.space(bench.state, DESTINATION), bench.state.ip(SOURCE)
    ip(pod, f"route add blackhole {address}")
    try:
        outcomes = bench.outcomes(expected)
    finally:
        ip(pod, f"route del blackhole {address}")
    assert outcomes == {"half open (its first packet arrived, and no answer came back)"}
