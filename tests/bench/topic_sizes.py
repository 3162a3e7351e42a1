"""How many bytes a verdict takes on the topics of a real Kafka: ``python -m tests.bench.topic_sizes``.

The verdicts are those of ``make bench``: eight nodes, 200 pods, both directions, one in ten denied. The probe's batcher
makes the batches, the enricher the records, and librdkafka sends both with the product's compression: each batch by
itself, and so many records at once. What the broker then has on its disk is measured. ``weir size``
(:mod:`streams.cli.size_facts`) counts with these figures.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from enrich.index.cluster import NAMED_KINDS, Cluster
from enrich.render.enricher import Enricher
from enrich.render.merged_batch import merge
from enrich.sources.factory import start_source
from enrich.wire.batch import decode_batch
from streams.kafka.connection import RELIABLE_PRODUCER
from tests.bench.verdicts import NODES, make_batches, make_verdicts, write_manifests
from tests.kafka.broker import log_bytes, running_broker
from tests.waiting import until

TOGETHER: Final = 10
"""So many records of a partition are sent at once. The more, the better they are compressed."""

MAX_SENDS: Final = 200
"""So many times something is sent to a topic: each waits for the broker."""


def measure(servers: str, folder: Path, work: Path, verdicts: int, sizes: Sequence[int]) -> dict[str, float]:
    """Return bytes per verdict: of each size of batches in the raw topic, and of records on the others.

    ``folder``: the broker's; ``work``: an empty one."""
    write_manifests(work / "manifests")
    cluster = Cluster(kinds=NAMED_KINDS)
    source = start_source(f"manifests:{work / 'manifests'}", cluster)
    until(lambda: not cluster.missing())
    enricher = Enricher(cluster)
    per_node = verdicts // len(NODES)
    values, found = dict[str, list[bytes]](), dict[str, float]()
    for size in sizes:
        raw = [one for node in NODES for one in make_batches(node, make_verdicts(node, per_node), size)]
        taken = raw[:MAX_SENDS]
        count = sum(len(decode_batch(one).verdicts) for one in taken)
        found[f"raw, batches of {size}"] = _bytes(servers, folder, f"{work.name}.raw.{size}", taken, 1) / count
        if size == sizes[0]:
            for one in raw:
                records = enricher.records(merge(decode_batch(one)))
                values.setdefault("flows", []).extend(records.values)
                pairs = zip(records.values, records.denied, strict=True)
                values.setdefault("flows.denied", []).extend(value for value, is_denied in pairs if is_denied)
    source.stop()
    for name, all_records in values.items():
        records_of_topic = all_records[: TOGETHER * MAX_SENDS]
        size = len(records_of_topic)
        found[name] = _bytes(servers, folder, f"{work.name}.{name}", records_of_topic, TOGETHER) / size
        found[f"{name}, as JSON"] = sum(map(len, records_of_topic)) / size
    return found


def _bytes(servers: str, folder: Path, topic: str, values: Sequence[bytes], together: int) -> int:
    """Send values, some at once, and return what they take on the broker's disk."""
    admin = AdminClient({"bootstrap.servers": servers})  # what it is asked ends with it
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(60)
    producer = Producer({"bootstrap.servers": servers, **RELIABLE_PRODUCER, "linger.ms": 1000})
    for first in range(0, len(values), together):
        for value in values[first : first + together]:
            producer.produce(topic, value, partition=0)
        assert producer.flush(60) == 0  # at once, without the linger
    return log_bytes(folder, topic)


def main() -> None:
    """Print what a verdict takes."""
    with tempfile.TemporaryDirectory() as folder, running_broker(Path(folder)) as servers:
        work = Path(folder) / "sizes"
        work.mkdir()
        for name, size in measure(servers, Path(folder), work, 8_000, (1000, 100, 10)).items():
            print(f"{name}: {size:.1f} bytes")


if __name__ == "__main__":
    main()
