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


@pytest.mark.timeout(480)
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

    def ended() -> list[Batch] | None:
        batches = node.batches()
        return batches if len(reports(batches)) >= 2 * FLOWS else None

    batches = until(ended, "the reports of both ends of each connection")
    assert probe.stop() == 0, probe.log.read_text()
    verdicts = {
        (batch.header.ring, number): row.tobytes()
        for batch in batches
        for number, row in zip(batch.numbers().tolist(), batch.verdicts, strict=True)
    }
    carried = {"client": [0, 0], "server": [0, 0]}
    for (ring, number, _), end in reports(batches).items():
        assert verdicts[ring, number] == end["verdict"].tobytes()
        if end["verdict"]["destination_port"] < OPEN:
            continue
        pod = next(ref.pod for batch in batches for key, ref in batch.header.endpoints.items()
                   if int(key) == end["verdict"]["endpoint"])  # fmt: skip
        assert How(int(end["how"])) in (How.POD_GONE, How.TIMEOUT)
        carried[pod][0] += int(end["packets"].sum())
        carried[pod][1] += int(end["bytes"].sum())
    sent = FLOWS * PACKETS, FLOWS * PACKETS * (14 + 20 + 8 + 100)
    assert {pod: tuple(sums) for pod, sums in carried.items()} == {"client": sent, "server": sent}
