"""Waiting for programs in progress, where membarrier(2) is refused (nohz_full CPUs, seccomp)."""

from __future__ import annotations

import platform

import pytest
from netns import connects, gets_no_answer, listen

from probe.kernel import bpf
from tests.kernel.rig import Rig, both, of

pytestmark = [pytest.mark.kernel, pytest.mark.one_mode]

_NO_SUCH_CALL = 100_000


@pytest.fixture
def _refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bpf._SYS_MEMBARRIER, platform.machine(), _NO_SUCH_CALL)


@pytest.mark.usefixtures("_refused")
def test_policy_is_installed_and_windows_close_without_membarrier(rig: Rig) -> None:
    client, server = both(rig, "a/client", 1), both(rig, "a/server", 2)
    rig.apply()
    with listen(server, 4, 80):
        assert connects(client, server.address(4), 80)
        rig.policy("a/none", podSelector={}, ingress=[])
        rig.apply()
        rig.drain()
        assert gets_no_answer(client, server.address(4), 80)
    assert of(rig.seen(), verdict="deny")
    assert rig.windows.rotate() >= 1
