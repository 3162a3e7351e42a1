"""WEIR_ENDS=1 from packets to the raw topic, over a kill -9: the reports are those of the verdicts, and add up."""

from __future__ import annotations

import numpy as np
import pytest

from enrich.wire.batch import Batch
from enrich.wire.ends import How
from tests.e2e.node import OPEN, Node
from tests.kafka.site import until

pytestmark = pytest.mark.e2e

FLOWS, PACKETS = 40, 5


def reports(batches: list[Batch]) -> dict[tuple[str, int, int], np.void]:
    """Return the reports by ring, number and part: a kill may repeat some."""
    found: dict[tuple[str, int, int], np.void] = {}
    for batch in batches:
        for end in () if batch.ends is None else batch.ends:
            key = f"{int(end['ring']):016x}", int(end["number"]), int(end["part"])
            assert found.setdefault(key, end).tobytes() == end.tobytes(), "one key, two reports"
    return found


def is_of_the_test(end: np.void) -> bool:
    """Return whether this is a report of a connection to one of the test's ports."""
    return bool(end["verdict"]["destination_port"] >= OPEN)


def carried(batches: list[Batch]) -> dict[str, tuple[int, int]]:
    """Return the packets and bytes of the test's connections at each pod."""
    sums = {"client": (0, 0), "server": (0, 0)}
    pods = {int(key): ref.pod for batch in batches for key, ref in batch.header.endpoints.items()}
    for end in filter(is_of_the_test, reports(batches).values()):
        pod = pods[int(end["verdict"]["endpoint"])]
        packets, size = sums[pod]
        sums[pod] = packets + int(end["packets"].sum()), size + int(end["bytes"].sum())
    return sums


@pytest.mark.timeout(900)
def test_what_connections_carried_is_on_kafka_once_they_have_ended(node: Node) -> None:
    probe = node.begin(WEIR_ENDS="1", WEIR_HEARTBEAT="1")
    with node.socket() as client:
        receivers = [node.socket(OPEN + flow, server=True) for flow in range(FLOWS)]
        for packet in range(PACKETS):
            for flow in range(FLOWS):
                client.sendto(b"x" * 100, ("10.244.0.2", OPEN + flow))
            if packet == PACKETS // 2:
                probe.kill()
                probe = node.start(WEIR_ENDS="1", WEIR_HEARTBEAT="1")
                probe.wait_until_enforced()
        for receiver in receivers:
            assert len([receiver.recv(1000) for _ in range(PACKETS)]) == PACKETS
            receiver.close()
    node.delete_pods()

    def seen() -> bool:
        # A connection that was quiet for the kernel's 30 s, while the second probe started on a busy machine, has ended
        # then, and its next packet begins a second one: their number is not known, what they sum up to is.
        sums = carried(node.batches())
        return min(packets for packets, _ in sums.values()) >= FLOWS * PACKETS

    until(seen, lambda: f"reports of every packet at both ends: {carried(node.batches())}")
    assert probe.stop() == 0, probe.log.read_text()
    # A report that comes twice under another key would be here by now: the probe has sent all that it had.
    batches = node.batches()
    verdicts = {
        (batch.header.ring, number): row.tobytes()
        for batch in batches
        for number, row in zip(batch.numbers().tolist(), batch.verdicts, strict=True)
    }
    for (ring, number, _), end in reports(batches).items():
        assert verdicts[ring, number] == end["verdict"].tobytes()
        assert How(int(end["how"])) in (How.POD_GONE, How.TIMEOUT) or not is_of_the_test(end)
    sent = FLOWS * PACKETS, FLOWS * PACKETS * (14 + 20 + 8 + 100)
    assert carried(batches) == {"client": sent, "server": sent}
