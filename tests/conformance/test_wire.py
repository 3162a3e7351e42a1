"""The wire mode sees what is neither a connection nor silence: a network that refuses, and one that loses answers."""

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

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]

SOURCE, DESTINATION = "shop/web", "shop/db"


class Bench:
    """The first step of a case, and the rows between two of its pods that should get through."""

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

    def seen(self, asked: Sequence[Row]) -> set[str]:
        return set(self._wire.probe(self.state, asked))


@pytest.fixture(scope="module")
def _wires(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Wire]]:
    with closing(Fleet(tmp_path_factory.mktemp("fleet"))) as fleet, closing(Wire(fleet)) as wire:
        yield fleet, wire


@pytest.fixture(params=[4, 6])
def bench(request: pytest.FixtureRequest, _wires: tuple[Fleet, Wire]) -> Bench:
    return Bench(*_wires, request.param)


def test_a_connection_and_silence(bench: Bench) -> None:
    assert bench.seen(bench.open) == {"allowed"}
    assert bench.seen(bench.closed) == {"denied"}


def test_a_refusal_is_not_silence(bench: Bench) -> None:
    """The node says that the way is prohibited (ICMP), to each protocol."""
    expected = [row._replace(allowed=False) for row in bench.open]
    node, address = bench.space(bench.state, "node:n1"), bench.state.ip(DESTINATION)
    ip(node, f"route add prohibit {address}")
    try:
        seen = bench.seen(expected)
    finally:
        ip(node, f"route del prohibit {address}")
    assert len(seen) == 1
    assert seen.pop().startswith("a refusal (")
    assert bench.seen(bench.open) == {"allowed"}


def test_a_packet_that_arrives_is_not_silence_though_nothing_comes_back(bench: Bench) -> None:
    """As if the answers only were dropped: the destination has no way back."""
    expected = [row._replace(allowed=False) for row in bench.open]
    pod, address = bench.space(bench.state, DESTINATION), bench.state.ip(SOURCE)
    ip(pod, f"route add blackhole {address}")
    try:
        seen = bench.seen(expected)
    finally:
        ip(pod, f"route del blackhole {address}")
    assert seen == {"its first packet arrive, and no answer come back"}
