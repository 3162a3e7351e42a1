"""The process of the released version 0.1.0 is taken over while packets flow, and follows a later one after a detach.

The source of that version comes from the history of this repository: as it was released, and with the other layout of
endpoints that is called v3 as well. A clone without history runs what needs none: the kernel tests of other layouts.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.node import CLOSED, Node, Rows
from tests.e2e.test_probe import Traffic, check
from tests.kafka.site import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
COMMITS = {
    "0.1.0": "0b2137c055b71890e91418651e3d884a79ef8334",
    "0.1.0-later": "e58fc65fc4bc0d7712c54a630ce5b0f2885db383",
}
ASKING, ANSWERING = 5001, 5000
"""Ports of a flow that the server opens. Policy denies the client to open one to the server's."""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the released version, a folder for each layout."""
    made = tmp_path_factory.mktemp("released")
    for name, commit in COMMITS.items():
        if subprocess.run(["git", "cat-file", "-e", commit], cwd=ROOT, capture_output=True, check=False).returncode:
            pytest.skip("this clone has no history of 0.1.0: git fetch --unshallow")
        archive = made / f"{name}.tar"
        subprocess.run(["git", "archive", "-o", archive, commit, "probe", "bpf", "enrich"], cwd=ROOT, check=True)
        (made / name).mkdir()
        subprocess.run(["tar", "-xf", archive, "-C", made / name], check=True)
    return made


@pytest.fixture
def nothing_denied_passes(node: Node) -> Iterator[Callable[[], None]]:
    """Open the closed port of the server when called; at the end, nothing must have come."""
    with contextlib.ExitStack() as stack:
        opened = []

        def start() -> None:
            opened.append(stack.enter_context(node.socket(CLOSED, server=True)))

        yield start
        for one in opened:
            one.settimeout(0.1)
            with pytest.raises(TimeoutError):
                one.recv(100)


def is_alone(node: Node) -> bool | None:
    """Return whether one generation is left, which is not that of 0.1.0."""
    names = {path.name for path in node.pins.iterdir()}
    return (len(names) == 2 and "links" in names and "v3" not in names) or None


@pytest.mark.parametrize(("version", "attach"), [("0.1.0", "tcx"), ("0.1.0-later", "clsact")])
def test_the_released_version_is_taken_over_and_every_verdict_is_there(
    node: Node, released: Path, nothing_denied_passes: Callable[[], None], version: str, attach: str
) -> None:
    node.source = released / version
    old = node.begin(WEIR_ATTACH=attach)
    nothing_denied_passes()
    with node.socket(ASKING, server=True) as server, node.socket(ANSWERING) as client:
        traffic = Traffic(node)
        try:
            traffic.wait_for_more(200)
            server.sendto(b"question", (node.client.address(4), ANSWERING))
            assert client.recv(100) == b"question"
            # A connection that was answered is remembered for 180 s, another for 30, and the start of a probe, which
            # compiles its programs, may take as long.
            client.sendto(b"heard", (node.server.address(4), ASKING))
            assert server.recv(100) == b"heard"
            old.kill()
            traffic.wait_for_more(50)
            node.source = None
            probe = node.start(WEIR_ATTACH=attach)
            probe.wait_until_enforced()
            until(lambda: is_alone(node), "one generation")
            # The connection was carried over: without it, policy denies the answer.
            client.sendto(b"answer", (node.server.address(4), ASKING))
            assert server.recv(100) == b"answer"
            traffic.wait_for_more(200)
        finally:
            traffic.stop()
    assert not probe.lines("another generation of maps cannot be read"), probe.log.read_text()
    probe.wait_until_sent()
    assert probe.stop() == 0, probe.log.read_text()
    rows = Rows(node.batches())
    assert len(rows.rings) == 2
    check(rows, traffic.allowed, traffic.denied)


def test_a_detach_makes_room_for_the_released_version_and_nothing_else_does(
    node: Node, released: Path, nothing_denied_passes: Callable[[], None]
) -> None:
    probe = node.begin()
    nothing_denied_passes()
    traffic = Traffic(node)
    try:
        assert probe.stop() == 0
        node.source = released / "0.1.0"
        # It cannot read the ledger of a later version. What that one has left in force stays.
        assert node.start().process.wait(240) != 0
        traffic.wait_for_more(100)
    finally:
        traffic.stop()
    node.source = None
    node.detach()
    node.source = released / "0.1.0"
    node.start().wait_until_enforced()
