"""Asks the status topic: who reports, of which version, when each node was last heard of, and whose clock is wrong.

Theory of operation. Of clocks only what is sure is said. A tally is written after the node has made it, and read after
it was written. So a tally that its node made later than a worker wrote it shows that the node's clock is ahead of the
worker's; and a record that was written later than now shows that this machine's clock is behind the worker's. In the
other direction, a wrong clock looks like a tally that was under way for long.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from enrich.runtime.version import version_text
from streams.cli.custody import NodeCustody, NodeKey, time_text
from streams.cli.custody_text import SeenWorker
from streams.cli.doctor.finding import Finding, ok, problem, warning
from streams.cli.status_topic import TALLY_BEFORE_S, StatusTopic, last_seen, read_since
from streams.cli.terminal import listed
from streams.kafka.connection import Connection, ReadError
from streams.settings import Settings

_WINDOW_S: Final = 600.0
SKEW_S: Final = 1.5
"""Readers bear with a second between two clocks (:mod:`enrich.wire.clock_skew`); a Date header leaves out fractions."""
_MAX_LINES: Final = 1000
"""So many nodes get a line of their own: anyone who may write to the topic may invent some."""
_SHOWN_WORKERS: Final = 10


def reports(connection: Connection, settings: Settings, cluster: str) -> Iterator[Finding]:
    """Look at the last ten minutes of the status topic. ``cluster``: the only one to look at; empty: all."""

    def is_chosen(key: NodeKey) -> bool:
        return not cluster or key[0] in (cluster, "")

    now = time.time()
    read = StatusTopic(now - _WINDOW_S, is_chosen)
    latest = 0.0
    for record in read_since(connection, settings.topics.status.name, now - _WINDOW_S - TALLY_BEFORE_S):
        latest = max(latest, record.timestamp_ms / 1000)
        read.add(record)
    now = time.time()
    yield own_clock(latest - now)
    nodes = read.tallies.nodes(now)
    if not nodes:
        yield problem(
            "nodes",
            f"no node has reported in the last {_WINDOW_S / 60:.0f} minutes: look whether weir-probe and weir-streams "
            "are ready (kubectl -n kubeweir get pods), and at /readyz of those that are not",
        )
    yield from _each(nodes, latest - now)
    yield from _workers(list(read.workers.values()))
    try:
        seen = last_seen(connection, settings.topics.checkpoints.name, settings.prefix)
    except ReadError as error:
        yield warning("nodes", f"whether there are nodes that have not reported at all is not known: {error}")
    else:
        yield from _unheard(read, {key: at for key, at in seen.items() if is_chosen(key)})


def own_clock(behind_s: float) -> Finding:
    """Return what the newest record of another machine says about this machine's clock."""
    if behind_s > SKEW_S:
        return problem("clock", f"this machine's clock is at least {behind_s:.1f} s behind the workers': set it by NTP")
    return ok("clock", "no record is from the future of this machine's clock")


def _each(nodes: Sequence[NodeCustody], behind_s: float) -> Iterator[Finding]:
    several = len({node.cluster for node in nodes}) > 1
    for node in nodes[:_MAX_LINES]:
        name = f"node {node.cluster}/{node.node}" if several else f"node {node.node}"
        yield of_node(name, node, is_own_clock_right=behind_s <= SKEW_S)
    if len(nodes) > _MAX_LINES:
        yield warning("nodes", f"{len(nodes) - _MAX_LINES} more nodes are not shown: weir status has them all")


def of_node(name: str, node: NodeCustody, *, is_own_clock_right: bool) -> Finding:
    """Return what is known of a node."""
    version = f"probe {node.state.version or 'of an earlier version'}"
    if node.is_silent:
        return problem(
            name,
            f"{version}, not heard of since {time_text(node.at)}: look at the pod of weir-probe there, and at what "
            "waits for the workers (weir status)",
        )
    wrong = [*_other_version(node.state.version, "the probe")]
    if node.ahead_s > SKEW_S and is_own_clock_right:
        wrong.append(f"its clock is at least {node.ahead_s:.1f} s ahead of the workers': set it by NTP")
    if node.state.unenforced_pods:
        wrong.append(f"policy is not enforced for {node.state.unenforced_pods:,} pods: weir status names them")
    text = "; ".join((f"{version}, last heard of at {time_text(node.at)}", *wrong))
    return warning(name, text) if wrong else ok(name, text)


def _workers(workers: Sequence[SeenWorker]) -> Iterator[Finding]:
    if not workers:
        return
    shown = listed([f"{one.worker} {one.version or 'of an earlier version'}" for one in workers], _SHOWN_WORKERS)
    wrong = dict.fromkeys(text for one in workers for text in _other_version(one.version, "a worker"))
    yield warning("workers", "; ".join((shown, *wrong))) if wrong else ok("workers", shown)


def _other_version(version: str, whose: str) -> Iterator[str]:
    own = version_text()
    if version != own and " " not in own:
        yield f"{whose} is not of this command's version {own}: upgrade what is older, workers before probes"


def _unheard(read: StatusTopic, seen: Mapping[NodeKey, float]) -> Iterator[Finding]:
    for one in read.tallies.unheard(seen)[:_MAX_LINES]:
        text = f"{one.text}; nothing is to be done if it is gone on purpose"
        yield warning(f"node {one.node}", text)
