"""`weir size`: what a cluster of a size needs of Kafka, workers, memory and API servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

import click

from streams.cli.number import Number
from streams.cli.size_estimate import ASSUMPTIONS, Estimate, estimate
from streams.cli.size_facts import FACTS
from streams.cli.terminal import table_lines

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")


@click.command()
@click.option("--nodes", type=click.IntRange(1, 100_000), required=True, help="Nodes of the cluster.")
@click.option("--pods", type=click.IntRange(1, 10_000_000), required=True, help="Pods of the cluster.")
@click.option(
    "--connections", type=Number(0, 1e9), required=True,
    help="New connections a second between pods, and between pods and the world, in the whole cluster.",
)  # fmt: skip
@click.option("--replication", type=click.IntRange(1, 10), default=3, show_default=True, help="Replicas of the topics.")
@click.option("--topic-prefix", "prefix", default="kubeweir", envvar="WEIR_TOPIC_PREFIX", help="Prefix of the topics.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def size(nodes: int, pods: int, connections: float, replication: int, prefix: str, output: str) -> None:
    """Estimate what a cluster needs: bytes a day, partitions, brokers, workers, memory, traffic of the API servers.

    It asks neither Kafka nor a cluster: it counts with what was measured (docs/scale.md#what-a-cluster-needs), and says
    what it assumes.

    \b
    Exit 0: the estimate was printed. 2: the command is wrong.
    """
    found = estimate(nodes, pods, connections, replication, prefix)
    asked = {"nodes": nodes, "pods": pods, "connections_a_second": connections, "replication": replication}
    if output == "json":
        sources = {name.lower(): {"value": one.value, "source": f"docs/{one.page}"} for name, one in FACTS.items()}
        click.echo(
            json.dumps({"schema": 1, "for": asked, **asdict(found), "assumptions": ASSUMPTIONS, "facts": sources})
        )
        return
    click.echo(
        f"For {nodes:,} nodes, {pods:,} pods and {connections:,.10g} new connections a second, about:\n\n"
        f"{found.verdicts_a_second:,.0f} verdicts a second\n"
    )
    for line in _lines(found, replication):
        click.echo(line)


def _lines(found: Estimate, replication: int) -> Iterator[str]:
    rows = [("TOPIC", "A DAY", "KEPT, DAYS", f"ON DISK, {replication} REPLICAS")]
    rows += [(one.name, quantity(one.bytes_a_day), f"{one.days:g}", quantity(one.bytes_kept)) for one in found.topics]
    rows.append(("together", quantity(sum(one.bytes_a_day for one in found.topics)), "",
                 quantity(sum(one.bytes_kept for one in found.topics))))  # fmt: skip
    yield from table_lines(rows, range(1, 4))
    yield ""
    probes, streams = f"{found.probe_mib:,} MiB", f"{found.worker_mib:,} MiB, limit {found.worker_limit_mib:,} MiB"
    yield from table_lines(
        [
            ("partitions", f"{found.partitions} (WEIR_PARTITIONS; fixed when the topics are made)"),
            ("workers", f"{found.workers}, each {streams}; {found.worker_cores:.1f} cores together"),
            ("brokers", f"{found.brokers}, which write {quantity(found.broker_bytes_a_second)}/s together"),
            ("probes", f"{probes} on each node"),
            ("API servers", f"{quantity(found.api_list_bytes)} when all probes start at once, then "
                            f"{quantity(found.api_bytes_a_second)}/s"),
        ]
    )  # fmt: skip
    for title, texts in (("Mind", found.notes), ("Assumed", ASSUMPTIONS)):
        if texts:
            yield f"\n{title}:"
            yield from (f"  {text}" for text in texts)


def quantity(count: float) -> str:
    """Return so many bytes with two or three digits, by powers of a thousand, as vendors of disks count."""
    power = 0
    while count >= 999.5 and power < len(_UNITS) - 1:
        count, power = count / 1000, power + 1
    digits = 1 if count < 9.95 and power else 0
    return f"{count:,.{digits}f} {_UNITS[power]}"
