"""Attaching and detaching programs on real devices."""

from __future__ import annotations

import pytest

from probe.kernel import bpf
from tests.kernel.rig import Rig, both

pytestmark = pytest.mark.kernel


def test_a_device_can_be_attached_again_right_after_it_was_detached(rig: Rig) -> None:
    """The kernel releases a link's last reference later, after a grace period: detach must not rely on that."""
    pod = both(rig, "a/client", 1)
    rig.apply()
    for _ in range(20):
        rig.attachments.detach(pod.index)
        assert not rig.attachments.is_attached(pod.index)
        assert rig.attachments.attach(pod.index)
        assert rig.attachments.is_attached(pod.index)


@pytest.mark.one_mode
def test_a_probe_that_was_killed_between_detaching_and_unpinning_leaves_nothing_in_the_way(rig: Rig) -> None:
    pod = both(rig, "a/client", 1)
    rig.apply()
    with bpf.closing(bpf.get(rig.pins / "links" / f"{pod.index}_pod_egress")) as link:
        bpf.link_detach(link)
    assert not rig.attachments.is_attached(pod.index)
    assert rig.attachments.attach(pod.index)
    assert rig.attachments.is_attached(pod.index)
