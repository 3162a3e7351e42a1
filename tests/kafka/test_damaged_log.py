"""A batch that is damaged on a broker's disk, on a real Apache Kafka."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kafka.batches import make_batch
from tests.kafka.site import Site, until

pytestmark = pytest.mark.kafka


def damage(folder: Path, topic: str, value: bytes) -> None:
    """Change a byte of the batch with this value, in each place where the broker has it."""
    # pytest has a link to the folder, too.
    found = {file.resolve() for file in folder.glob(f"kafka*/broker/**/{topic}-*/*.log")}
    files = [file for file in found if value in file.read_bytes()]
    assert files
    for file in files:
        with file.open("r+b") as log:
            content = log.read()
            at = content.index(value) + len(value) // 2
            log.seek(at)
            log.write(bytes([content[at] ^ 1]))


def test_the_enricher_passes_over_a_batch_whose_checksum_is_wrong(
    site: Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    service = site.start_enrich()
    until(lambda: service.get("/readyz")[0] == 200 or None, "readiness")
    assert service.stop() == 0
    # The first one is followed by others, and the last one by nothing.
    values = [make_batch(number * 5, 5) for number in range(4)]
    for value in values:
        site.send(value)
        site.flush()
    for value in values[1::2]:
        damage(tmp_path_factory.getbasetemp(), f"{site.prefix}.verdicts.raw", value)
    service = site.start_enrich()
    flows = site.read_flows(10)
    assert {flow["id"] for flow in flows} == {f"r1-{number}" for number in (*range(5), *range(10, 15))}
    dead = site.read("dead", lambda found: len(found) >= 2)
    headers = [dict(message.headers() or []) for message in dead]
    assert [(one["reason"], one["offset"]) for one in headers] == [(b"damaged", b"1"), (b"damaged", b"3")]
    assert b"the records 1 to 1 were not read: the checksum" in headers[0]["error"]
    assert [message.value() for message in dead] == [b"", b""]
    # Verdicts that were in it are missing, and no probe has reported them.
    until(lambda: service.metric("kubeweir_streams_gap_verdicts_total") == 5 or None, "the gap")
    until(lambda: service.get("/readyz")[0] == 200 or None, "readiness")
    assert service.stop() == 0
    # What was passed over is committed: the next worker reads none of it.
    again = site.start_enrich()
    site.send(make_batch(20, 5))
    site.flush()
    site.read_flows(15)
    assert again.metric('kubeweir_streams_dead_letters_total{reason="damaged"}') == 0
    until(lambda: again.metric("kubeweir_streams_gap_verdicts_total") == 5 or None, "the gap after the first worker")
    assert again.stop() == 0
