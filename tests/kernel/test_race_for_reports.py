"""Processors that meet at the place of a connection, with time between their steps: no report is of two connections."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from netns import Space, ip, open_socket, run_in

import bpf as sources
from enrich.wire.batch import Verdict
from probe.kernel.bpf import wait_for_programs
from probe.kernel.ends import report_all
from probe.kernel.layout import Config, Counter
from tests.kernel.rig import SMALL, WITH_ENDS, Rig, both
from tests.waiting import until

pytestmark = [pytest.mark.kernel, pytest.mark.one_mode]

_START = "#define KUBEWEIR_ENDS_H\n"
_WAIT = """
static __always_inline void wait_a_little(void)
{
#pragma clang loop unroll(disable)
	for (int turn = 0; turn < 1000; turn++)
		bpf_ktime_get_ns();
}
"""
"""Some microseconds, in which another processor empties the place and enters a connection of its own."""
_LIMIT = 1
"""Connections of the pod: all of them get one place, one after the other."""
_PORTS = 6000


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Rig]:
    """Return a rig whose programs wait between looking whose a place is, and writing there."""
    folder = tmp_path / "bpf"
    shutil.copytree(sources.ROOT, folder)
    for file, step in (("sweep.h", "	add_packet(counted, direction, skb->len, serial);\n"),
                       ("places.h", "			own_traffic(w, number);\n")):  # fmt: skip
        text = (folder / file).read_text()
        assert text.count(step) == 1
        (folder / file).write_text(text.replace(step, f"	wait_a_little();\n{step}"))
    text = (folder / "ends.h").read_text()
    assert text.count(_START) == 1
    (folder / "ends.h").write_text(text.replace(_START, _START + _WAIT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "POLICY_SOURCE", folder / "policy.c")
        made = Rig(tmp_path, "tcx", sizes={**WITH_ENDS, **SMALL})
    made.maps.configure(Config.POD_CONNECTIONS, _LIMIT)
    yield made
    made.close()


def _send(pod: Space, to: str, size: int) -> None:
    with open_socket(pod, 4, socket.SOCK_DGRAM) as out:
        for port in range(10_000, 10_000 + _PORTS):
            out.sendto(bytes(size), (to, port))


def _taken(rig: Rig) -> np.ndarray[Any, Any]:
    assert rig.ring.ends is not None
    first, found = rig.ring.ends.read_entries(1 << 20)
    rig.ring.ends.release(first + len(found))
    return found


def _is_judged(rig: Rig, pod: Space, packets: int) -> bool:
    """Return whether all of so many packets were judged: a queue of the kernel's may keep, or drop, what was sent.

    A packet that is counted after its connection was reported makes another report, of part 1."""
    devices = run_in(pod, lambda: Path("/proc/thread-self/net/dev").read_text()).splitlines()[2:]
    dropped = sum(int(line.rpartition(":")[2].split()[11]) for line in devices)
    counters = rig.maps.counters()
    # An allowed packet that gets no place is decided about once more.
    return counters[Counter.DECIDED] - counters[Counter.CONNECTIONS_FULL] + dropped >= packets


def test_no_report_mixes_two_connections(slow: Rig) -> None:
    """Each connection is one packet, whose length says which sender it is of."""
    pod = both(slow, "a/pod", 1)
    # The node would answer that there is no way to these addresses, and such an answer is a connection of its own.
    ip(slow.node, "route add blackhole 10.244.9.0/24")
    slow.apply()
    first = slow.ring.next_number
    sizes = {"10.244.9.1": 100, "10.244.9.2": 200, "10.244.9.3": 300}
    threads = [threading.Thread(target=_send, args=(pod, to, size)) for to, size in sizes.items()]
    for thread in threads:
        thread.start()
    found = [_taken(slow)]
    for thread in threads:
        while thread.is_alive():
            # Without a rest between the looks, this thread keeps Python's lock from those that send.
            thread.join(0.05)
            found.append(_taken(slow))
    until(lambda: _is_judged(slow, pod, len(sizes) * _PORTS))
    wait_for_programs()
    while report_all(slow.maps):
        found.append(_taken(slow))
    ends = np.concatenate([*found, _taken(slow)])
    verdicts = slow.drain()
    counters = slow.maps.counters()
    uncertain, unplaced = counters[Counter.ENDS_UNCERTAIN], counters[Counter.ENDS_UNPLACED]
    allowed = int((verdicts["verdict"] == Verdict.ALLOW).sum())
    # How often two meet depends on the machine. But of each allowed connection in the log there is a report, or it is
    # counted why there is none.
    assert len(ends) > 0
    assert len(ends) + uncertain + unplaced + counters[Counter.ENDS_LOST] == allowed > _PORTS
    assert (verdicts[ends["number"].astype(np.int64) - first] == ends["verdict"]).all()
    assert len(np.unique(ends["number"])) == len(ends), "each connection once"
    lengths = 14 + 20 + 8 + 100 * ends["verdict"]["destination"][:, 15].astype(np.int64)
    wrong = (ends["packets"][:, 0] > 1) | ((ends["packets"][:, 0] == 1) & (ends["bytes"][:, 0] != lengths))
    assert not wrong.any(), f"{wrong.sum()} of {len(ends)}"
    print(f"{len(ends)} reports, {uncertain} withheld, {unplaced} without a place")
