"""Later fragments follow what policy says now of the packet whose first fragment they continue, at all three hooks."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from netns import Space

from probe.kernel.layout import FRAGMENT, Config
from tests.kernel.ear import Ear, new_mark
from tests.kernel.frames import Wire, ipv4, ipv6, udp
from tests.kernel.rig import FAMILIES, Rig, both, of

pytestmark = pytest.mark.kernel

WORLD = ("198.51.100.7", "2001:db8:7::7")
FIRST = udp(53, 4000, bytes(8))
"""16 bytes: the next fragment begins there."""


@dataclass
class Path:
    """A sender, a receiver, and which policy is between them: the hooks at which the fragments are judged."""

    rig: Rig
    hook: str
    sender: Space = field(init=False)
    receiver: Space = field(init=False)

    def __post_init__(self) -> None:
        rig = self.rig
        self.sender = both(rig, "a/client", 1)
        both(rig, "a/other", 2)
        self.receiver = both(rig, "a/server", 3) if self.hook == "pod ingress" else rig.net.pod(rig.node, *WORLD)
        self.allow(53)
        self.wire, self.ear = Wire(self.sender, rig.node), Ear(self.receiver)

    def allow(self, *ports: int) -> None:
        """Change the policy that the hook asks; port 9 is always open."""
        rules = [{"ports": [{"port": port, "protocol": "UDP"} for port in (9, *ports)]}]
        subject, kind, name = (("server", "Ingress", "ingress") if self.hook == "pod ingress" else
                               ("client", "Egress", "egress"))  # fmt: skip
        self.rig.policy("a/p", podSelector={"matchLabels": {"app": subject}}, policyTypes=[kind], **{name: rules})
        self.rig.apply()

    def change(self) -> None:
        """Change the policy of another pod, which makes every stored verdict stale."""
        before = self.rig.maps.config(Config.EPOCH)
        name = f"a/other-{len(self.rig.policies)}"
        self.rig.policy(name, podSelector={"matchLabels": {"app": "other"}}, ingress=[{"ports": [{"port": 1}]}])
        self.rig.apply()
        assert self.rig.maps.config(Config.EPOCH) > before

    def send(self, family: int, body: bytes, offset: int, number: int, *, more: bool = True) -> None:
        ends = self.sender.address(family), self.receiver.address(family)
        if family == 4:
            self.wire.send(ipv4(*ends, 17, body, fragment=more << 13 | offset // 8, number=number))
        else:
            self.wire.send(ipv6(*ends, 44, struct.pack("!BBHI", 17, 0, offset | more, number) + body))

    def arrives(self, family: int, number: int) -> bool:
        """Send a later fragment; return whether it arrives."""
        mark, end = new_mark(), new_mark()
        self.send(family, mark, 16, number, more=False)
        make = ipv6 if family == 6 else ipv4
        self.wire.send(make(self.sender.address(family), self.receiver.address(family), 17, udp(9, 4001, end)))
        return self.ear.heard([mark], end) == [mark]

    def close(self) -> None:
        self.wire.close()
        self.ear.close()
        if self.hook != "pod ingress":
            self.rig.net.remove(self.receiver)


@pytest.fixture(params=["pod ingress", "pod egress"])
def path(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Path]:
    made = Path(rig, request.param)
    yield made
    made.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_later_fragments_follow_the_policy_of_now(path: Path, family: int) -> None:
    path.send(family, FIRST, 0, 1)
    assert path.arrives(family, 1)
    path.change()
    assert path.arrives(family, 1)
    path.allow(80)
    assert not path.arrives(family, 1)
    path.allow(53)
    # The first fragment has passed, but what follows it was denied once: the packet is lost.
    assert not path.arrives(family, 1)
    path.send(family, FIRST, 0, 1)
    assert path.arrives(family, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_later_fragments_of_a_connection_that_has_ended_stop_with_the_next_change(path: Path, family: int) -> None:
    path.send(family, FIRST, 0, 3)
    assert path.arrives(family, 3)
    path.change()
    assert path.arrives(family, 3)
    path.change()
    subject = "a/server" if path.hook == "pod ingress" else "a/client"
    path.rig.edit_flows_of(subject, lambda entry: entry["last_ns"].fill(1))
    assert not path.arrives(family, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fragment_that_comes_when_nobody_waits_for_it_is_dropped(path: Path, family: int) -> None:
    path.send(family, FIRST, 0, 2)
    assert path.arrives(family, 2)
    table, limit = path.rig.maps["fragments"], (60 if family == 6 else 30) * 10**9
    for age, passes in ((limit - 10 * 10**9, True), (limit + 10**9, False)):
        for key, value in table.items().items():
            entry = np.frombuffer(value, FRAGMENT).copy()
            entry["time_ns"] -= np.uint64(age)
            table.set(key, entry.tobytes())
        path.rig.drain()
        assert path.arrives(family, 2) is passes
        assert [row.reason for row in of(path.rig.seen(), verdict="deny")] == ([] if passes else ["fragment"])
        path.send(family, FIRST, 0, 2)
