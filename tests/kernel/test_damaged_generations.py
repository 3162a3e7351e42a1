"""Generations whose description or ledger is damaged are taken over, and stay closed to what policy denies."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from netns import connects, gets_no_answer, listen, open_socket

from probe.kernel import bpf, description
from probe.kernel.generations import generation_name
from probe.kernel.sizes_in_force import generations_in_force
from probe.ledger import Ledger
from probe.numbers_in_use import reserve_numbers
from tests.kernel.rig import Rig
from tests.kernel.takeover import DENIED, Traffic, make_pods, restart
from tests.kernel.test_other_layout import other_version
from tests.waiting import until

pytestmark = pytest.mark.kernel

DAMAGES: tuple[bytes | None, ...] = (
    b"\0" * 64,
    b'{"version": "v0", "sizes": {}',
    b'{"version": 7, "sizes": [], "verdict": 0, "maps": {}}',
    description.OWN.encode({}),  # of other maps than those that are pinned
    None,
)


def damage(folder: Path, content: bytes | None) -> None:
    """Replace a generation's description, or remove it."""
    (folder / description.PIN).unlink()
    if content is None:
        return
    with bpf.closing(bpf.array_of_one(content)) as fd:
        bpf.pin(fd, folder / description.PIN)


def check_policy(own: Rig) -> None:
    client, server = own.pods["a/client"], own.pods["a/server"]
    with listen(server, 4, 80), listen(server, 4, 81):
        assert connects(client, server.address(4), 80)
        assert gets_no_answer(client, server.address(4), 81)
    own.drain()  # reads the ring of a generation before to its end
    assert {path.name for path in own.pins.iterdir()} == {"links", generation_name(own.sizes)}
    assert description.read(own.maps.folder) == (description.OWN, own.sizes)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("own", "damages"), [("tcx", DAMAGES[::2]), ("clsact", DAMAGES[1::2])], indirect=["own"], ids=["tcx", "clsact"]
)
def test_a_generation_that_cannot_be_read_is_replaced_and_nothing_denied_passes(
    own: Rig, damages: tuple[bytes | None, ...], tmp_path: Path
) -> None:
    with other_version(tmp_path / "other"):
        restart(own)
        client, server = make_pods(own)
    traffic = Traffic(client, server, 4)
    try:
        for place, content in enumerate(damages):
            damage(own.maps.folder, content)
            generations_in_force(own.pins)  # does not fail
            restart(own)
            own.apply()
            asked = traffic.answered
            until(lambda before=asked: traffic.answered > before + 5)  # type: ignore[misc]
            check_policy(own)
            with other_version(tmp_path / f"other-{place}"):
                restart(own)
                own.apply()
    finally:
        traffic.stop()
    assert traffic.passed == 0


@pytest.mark.parametrize("own", ["tcx"], indirect=True)
@pytest.mark.parametrize("name", ["endpoints", "deny_windows_0"])
def test_a_generation_without_all_of_its_maps_is_replaced(own: Rig, name: str) -> None:
    client, server = make_pods(own)
    traffic = Traffic(client, server, 4)
    try:
        (own.maps.folder / name).unlink()
        restart(own, POLICY_ENTRIES=512)
        own.apply()
        asked = traffic.answered
        until(lambda: traffic.answered > asked + 5)
        check_policy(own)
    finally:
        traffic.stop()
    assert traffic.passed == 0


@pytest.mark.parametrize("own", ["tcx"], indirect=True)
def test_a_generation_with_fewer_endpoints_takes_over(own: Rig) -> None:
    """The pod that does not fit is closed."""
    client, server = make_pods(own)
    traffic = Traffic(client, server, 4)
    try:
        restart(own, ENDPOINTS=1)
        own.apply()
        # An answer may be under way when the first of these begins.
        for _ in range(2):
            answered, denied = traffic.answered, traffic.denied
            until(lambda before=denied: traffic.denied > before + 1)  # type: ignore[misc]
        assert traffic.answered == answered
    finally:
        traffic.stop()
    assert traffic.passed == 0


@pytest.mark.parametrize("own", ["tcx"], indirect=True)
def test_a_damaged_description_of_this_version_is_not_needed(own: Rig) -> None:
    make_pods(own)
    damage(own.maps.folder, DAMAGES[0])
    restart(own, POLICY_ENTRIES=512)
    own.apply()
    check_policy(own)
    damage(own.maps.folder, DAMAGES[1])
    restart(own, POLICY_ENTRIES=512)
    own.apply()
    check_policy(own)


@pytest.mark.parametrize("own", ["tcx"], indirect=True)
def test_no_number_that_the_kernel_still_has_gets_another_meaning(own: Rig) -> None:
    """The ledger is lost. A verdict and a deny window have numbers that no policy map has any more."""
    client, server = make_pods(own)
    with open_socket(client, 4, socket.SOCK_DGRAM) as out:
        out.sendto(b"denied", (server.address(4), DENIED))
        out.sendto(b"denied", (server.address(4), DENIED))
    until(lambda: own.ring.unread > 0 and bool(own.windows.references()["rule"]))
    used = own.ring.references()
    assert used["rule"]
    assert used["endpoint"]
    assert own.windows.references()["endpoint"] <= used["endpoint"]
    own.crash()
    (own.folder / "ledger").unlink()
    own.open()
    fresh = Ledger.open(own.folder / "fresh")
    reserve_numbers(fresh, own.generation, [own.ring])
    for kind in ("rule", "endpoint", "identity"):
        assert fresh.number_of(kind, "new") > max(used[kind], default=0)
    fresh.close()
