"""How large a day of the journal is on a real Kafka: ``python -m tests.bench.journal_size``.

A cluster of 10,000 pods: 300 nodes, 200 namespaces, 1,500 Services, 1,000 policies, 800 profiles. The writer of the
product writes it, then a day of changes at a simulated clock; what the broker has on its disk is measured.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from enrich.history.left_out import LEFT_OUT
from enrich.index.cluster import Cluster
from enrich.label_selector import Operator, Requirement, Selector
from enrich.model import (
    IPBlock,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Owner,
    Peer,
    Pod,
    PolicyPort,
    Protocol,
    Rule,
    Service,
)
from enrich.sources.versions import Version
from enrich.wire.topics import topics
from streams.journal.observed import ObservedStates
from streams.journal.profiles import LINGER_NS, Profiles
from streams.journal.reading import read_journal
from streams.journal.writer import JournalWriter, Observation
from streams.journal.written import Journal
from streams.kafka.exactly_once import Write
from streams.kafka.records import Record
from tests.kafka.broker import log_bytes, running_broker

S = 1_000_000_000
DAY_S = 86_400
UID = "5c0e1f3a-77aa-4c51-9d1e-{:012d}"
CHANGES = {"policy": 100, "namespace": 10, "service": 150, "node": 700, "new profile": 60, "hourly job": 480}
"""Changes a day. 100 nodes come and go, each with seven states; 30 rollouts change labels; 20 jobs run every hour and
keep no pod."""


class Transactions:
    """Transactions as the product makes them, without a group."""

    def __init__(self, address: str) -> None:
        settings = {"bootstrap.servers": address, "transactional.id": "j", "compression.type": "lz4", "linger.ms": 1}
        self._producer = Producer(settings)
        self._producer.init_transactions(30)
        self.count = 0

    def take(self, max_records: int, wait_s: float) -> list[Record]:
        """Return nothing: it does not read back."""
        del max_records, wait_s
        return []

    def commit(self, writes: Iterable[Write]) -> None:
        """Write the entries in one transaction."""
        found = list(writes)
        if not found:
            return
        self._producer.begin_transaction()
        for one in found:
            self._producer.produce(one.topic, one.value, one.key, partition=0)
        self._producer.commit_transaction(30)
        self.count += 1


def selector(**labels: str) -> Selector:
    """Return a selector of labels."""
    return Selector(tuple(Requirement(key, Operator.IN, (value,)) for key, value in labels.items()))


def policy(number: int, version: int = 0) -> NetworkPolicy:
    """Return a policy as people write them: two ingress rules, DNS, a block."""
    other = Peer(selector(team=f"team-{number % 40}"), selector(app=f"app-{number % 97}"))
    ingress = (
        Rule((other,), (PolicyPort(Protocol.TCP, 8080 + version),)),
        Rule((Peer(pods=selector(role="metrics")),)),
    )
    dns = Rule((Peer(selector(**{"kubernetes.io/metadata.name": "kube-system"})),), (PolicyPort(Protocol.UDP, 53),))
    world = Rule((Peer(ip_block=IPBlock("0.0.0.0/0", ("10.0.0.0/8", "172.16.0.0/12"))),))
    name = f"allow-app-{number}"
    return NetworkPolicy(
        f"ns-{number % 200}", name, UID.format(number), selector(app=f"app-{number}"), ingress, (dns, world)
    )


def node(number: int, version: int = 0) -> Node:
    """Return a node of a cloud provider, with its twenty labels."""
    labels = {f"node.example.com/label-{one}": f"value-{one}-{version}" for one in range(20)}
    block, host = divmod(number, 250)
    name, ips = f"ip-10-0-{block}-{host}.internal", (f"10.0.{block}.{host}",)
    return Node(name, UID.format(number), labels, ips, "eu-1a", (f"10.{64 + block}.{host}.0/24",))


def pod(number: int, generation: int = 0) -> Pod:
    """Return a pod of one of 800 profiles, or of a later generation of its labels."""
    app = number % 800
    labels = {"app": f"app-{app}", "app.kubernetes.io/name": f"app-{app}", "team": f"team-{app % 40}",
              "version": f"v{generation}", "pod-template-hash": f"{number:x}"}  # fmt: skip
    ports = (NamedPort("http", 8080, Protocol.TCP), NamedPort("metrics", 9090, Protocol.TCP))
    return Pod(f"ns-{app % 200}", f"app-{app}-{number}-{generation}", UID.format(number), labels, ports=ports,
               owner=Owner("StatefulSet", f"app-{app}"))  # fmt: skip


def first() -> Iterator[Object]:
    """Yield the cluster."""
    yield from (Namespace(f"ns-{one}", UID.format(one), {"team": f"team-{one % 40}"}) for one in range(200))
    yield from (node(one) for one in range(300))
    yield from (
        Service(f"ns-{one % 200}", f"app-{one}", UID.format(one), (f"10.96.{one // 250}.{one % 250}",), (), ((6, 80),))
        for one in range(1500)
    )
    yield from (policy(one) for one in range(1000))
    yield from (pod(one) for one in range(10_000))


def change(kind: str, number: int) -> list[tuple[str, Object]]:
    """Return what is set and deleted by one change."""
    if kind == "policy":
        return [("set", policy(number, number))]
    if kind == "namespace":
        return [("set", Namespace(f"new-{number}", UID.format(number), {"team": "new"}))]
    if kind == "service":
        return [("set", Service("ns-1", f"new-{number}", UID.format(number), (f"10.97.0.{number}",)))]
    if kind == "node":
        return [("set", node(1000 + number // 7, number % 7))]
    if kind == "new profile":
        return [("set", pod(number, number)), ("delete", pod(number, number))]
    job = Pod("ns-1", f"job-{number}", "", {"app": f"job-{number}"})
    return [("set", job), ("delete", job)]


def main() -> None:
    """Write the cluster and a day of changes, and print the sizes."""
    with tempfile.TemporaryDirectory() as folder, running_broker(Path(folder)) as address:
        _measure(address, Path(folder))


def _measure(address: str, folder: Path) -> None:
    names = topics("kubeweir", 1)
    admin = AdminClient({"bootstrap.servers": address})
    admin.create_topics([NewTopic(names.journal.name, 1)])[names.journal.name].result(30)
    clock = [time.time_ns()]
    profiles = Profiles(Cluster(), LEFT_OUT, lambda: None)
    states = ObservedStates(profiles, lambda: None, lambda: clock[0])
    observation = Observation(states, profiles, lambda: True, lambda: clock[0])
    writer = JournalWriter(names.journal.name, observation, lambda: Journal("c1"), lambda _r, _w: None,
                           now_ns=lambda: clock[0])  # fmt: skip
    transactions = Transactions(address)

    version = Version("812345678", 3, "argocd-application-controller")
    for made in first():
        states.set(made, version)
    writer.on_assigned([(names.journal.name, 0)])
    writer.step(transactions)
    start = log_bytes(folder, names.journal.name)
    print(f"the cluster: {writer.states:,} states, {start:,} bytes, {start / writer.states:.0f} a state")
    due = sorted((one * DAY_S // count, kind, one) for kind, count in CHANGES.items() for one in range(count))
    for at in range(0, DAY_S, 10):
        while due and due[0][0] <= at:
            for what, made in change(*due.pop(0)[1:]):
                states.set(made, version) if what == "set" else states.deleted(made, version)
                writer.step(transactions)
        clock[0] += 10 * S
        writer.step(transactions)
    clock[0] += LINGER_NS
    day = log_bytes(folder, names.journal.name) - start
    began = time.monotonic()
    entries = sum(1 for _ in read_journal({"bootstrap.servers": address}, names))
    took = time.monotonic() - began
    print(f"a day: {entries:,} entries in all, {transactions.count:,} transactions, {day:,} bytes")
    repeats = start / 30
    print(f"with repeats: {(day + repeats) / 1e6:.2f} MB a day, {(day + repeats) * 431 / 1e6:,.0f} MB in 431 days")
    print(f"read in {took:.1f} s, {entries / took:,.0f} entries a second")


if __name__ == "__main__":
    main()
