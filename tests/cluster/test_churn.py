"""Ten thousand changes on a real API server, and pods whose addresses are used again within a second."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kubernetes
import orjson
import pytest

from enrich.index.cluster import NAMED_KINDS, Cluster
from enrich.model import Pod
from enrich.render.enricher import Enricher
from enrich.render.merged_batch import merge
from enrich.sources.kubernetes import KubernetesSource
from enrich.wire.address_interval import AddressInterval
from tests.cluster.apiserver import ApiServer, Caller
from tests.enrich.flows import make_batch
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

S = 1_000_000_000
PODS = "/api/v1/namespaces/default/pods"
Watch = Callable[..., tuple[KubernetesSource, Cluster]]


def make_pod(name: str, node: str = "n1", **labels: str) -> dict[str, Any]:
    spec = {"nodeName": node, "containers": [{"name": "main", "image": "none"}]}
    return {"metadata": {"name": name, "labels": labels}, "spec": spec}


def born_pod(name: str, node: str, **labels: str) -> dict[str, Any]:
    """As the API server keeps it."""
    pod = make_pod(name, node, **labels)
    meta = {
        **pod["metadata"],
        "namespace": "default",
        "uid": str(uuid.uuid4()),
        "creationTimestamp": _text(time.time()),
    }
    return {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": meta, "status": {"phase": "Pending"}}


def with_ip(pod: dict[str, Any], ip: str) -> dict[str, Any]:
    return {**pod, "status": {"podIP": ip, "podIPs": [{"ip": ip}], "phase": "Running"}}


@pytest.fixture
def watch(api: ApiServer) -> Iterator[Watch]:
    sources: list[KubernetesSource] = []
    config = str(api.kubeconfig("admin"))

    def start(**facts: Any) -> tuple[KubernetesSource, Cluster]:
        cluster = Cluster(kinds=NAMED_KINDS, **facts)
        source = KubernetesSource(cluster, lambda: kubernetes.config.new_client_from_config(config))
        sources.append(source)
        source.start()
        assert cluster.synced.wait(240)
        return source, cluster

    yield start
    for source in sources:
        source.stop()


def test_after_ten_thousand_changes_index_and_server_agree_object_by_object(api: ApiServer, watch: Watch) -> None:
    _, cluster = watch()

    def churn(part: int) -> None:
        caller, chance = Caller(api), random.Random(part)  # noqa: S311 - the same each time
        for first in range(0, 625, 25):
            names = [f"churn-{part}-{number}" for number in range(first, first + 25)]
            # Straight into etcd, for a write by the server costs it milliseconds; what it tells is the same.
            born = [
                born_pod(name, f"n{number % 7}", app=f"a{chance.randrange(9)}") for number, name in enumerate(names)
            ]
            api.load(born)
            api.load(
                with_ip(pod, f"10.{part}.{number // 250}.{number % 250}") for number, pod in enumerate(born, first)
            )
            for name in names:
                labels = {"app": f"b{chance.randrange(9)}", "extra": chance.choice(("x", None))}
                caller.call("PATCH", f"{PODS}/{name}", {"metadata": {"labels": labels}}, "application/merge-patch+json")
                if chance.random() < 0.7:
                    caller.delete(f"{PODS}/{name}")
                else:
                    caller.status(f"{PODS}/{name}", {"phase": chance.choice(("Failed", "Running"))})
        caller.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(churn, range(4)))
    held = {item["metadata"]["name"]: item for item in api.get(PODS)["items"]}
    until(lambda: {name.name for name in cluster.pods()} == held.keys())

    def plain(item: dict[str, Any]) -> tuple[Any, ...]:
        ips = tuple(entry["ip"] for entry in item["status"].get("podIPs", []))
        over = item["status"]["phase"] in ("Failed", "Succeeded")
        meta = item["metadata"]
        return meta["uid"], meta["labels"], item["spec"]["nodeName"], ips, over

    def own(pod: Pod) -> tuple[Any, ...]:
        return pod.uid, dict(pod.labels), pod.node, pod.ips, pod.terminated

    wanted = {name: plain(item) for name, item in held.items()}
    until(lambda: {name.name: own(pod) for name, pod in cluster.pods().items()} == wanted)
    now = time.time_ns()
    for name, (uid, _, _, ips, over) in wanted.items():
        for ip in ips:
            found = cluster.addresses.owner_at(ip, now + 3 * S).pod
            assert (found.uid if found else None) == (None if over else uid), name


@dataclass
class Account:
    """Who had which address when, by the one who gave it to them; and what was sent meanwhile."""

    held: list[tuple[str, str, str, int, int]] = field(default_factory=list)
    """Address, node, pod's UID, from, until."""
    packets: list[tuple[str, int]] = field(default_factory=list)
    """Address and moment."""

    def who(self, ip: str, at: int) -> str | None:
        return next((uid for held, _, uid, start, end in self.held if held == ip and start <= at < end), None)


class Kubelet(threading.Thread):
    """A node whose pods come and go, and take over each other's address within a second.

    As a real one: the sandbox first, the status after it; at the end the sandbox first, the API after it.
    """

    def __init__(self, api: ApiServer, number: int, seconds: float, account: Account) -> None:
        super().__init__()
        self._caller, self._account = Caller(api), account
        self._node, self._ip = f"n{number}", f"10.9.{number // 250}.{number % 250}"
        self._seconds, self._chance = seconds, random.Random(number)  # noqa: S311 - as above

    def run(self) -> None:
        over, run = time.monotonic() + self._seconds, 0
        while time.monotonic() < over:
            self._one(f"reuse-{self._node}-{run}")
            self._pass(self._chance.choice((0.02, 0.1, 0.4, 0.9)))
            run += 1
        self._caller.close()

    def _one(self, name: str) -> None:
        uid = self._caller.create(PODS, make_pod(name, self._node))
        begun = _text(time.time())
        self._pass(self._chance.random() * 0.3)
        start = time.time_ns()
        self._pass(self._chance.random() * 0.3)
        ready = {"type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": _text(time.time())}
        status = {"podIP": self._ip, "podIPs": [{"ip": self._ip}], "phase": "Running", "startTime": begun}
        self._caller.status(f"{PODS}/{name}", {**status, "conditions": [ready]})
        self._pass(self._chance.choice((0.3, 1.5, 4.0)))
        self._account.held.append((self._ip, self._node, uid, start, time.time_ns()))
        self._pass(self._chance.random() * 0.4)
        self._caller.delete(f"{PODS}/{name}")

    def _pass(self, seconds: float) -> None:
        """Time, in which somebody sends to the address, whoever has it."""
        over = time.monotonic() + seconds
        while (left := over - time.monotonic()) > 0:
            self._account.packets.append((self._ip, time.time_ns()))
            time.sleep(min(left, 0.05))


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _names(cluster: Cluster, account: Account, node: str) -> tuple[int, int, int]:
    """Records that name the right pod, that name none, and that name a wrong one."""
    enricher = Enricher(cluster)
    batch = make_batch(
        *({"time_ns": at, "destination": ip} for ip, at in account.packets),
        clock=0, node=node, endpoints={"7": {"namespace": "a", "pod": "b", "uid": ""}},
    )  # fmt: skip
    right = none = wrong = 0
    for (ip, at), value in zip(account.packets, enricher.records(merge(batch)).values, strict=True):
        named = orjson.loads(value)["dest"].get("pod_uid")
        right += named is not None and named == account.who(ip, at)
        wrong += named is not None and named != account.who(ip, at)
        none += named is None
    return right, none, wrong


def test_no_name_is_wrong_though_addresses_are_used_again_at_once(api: ApiServer, watch: Watch, tmp_path: Path) -> None:
    _, watched = watch()
    _, told = watch()
    account = Account()
    nodes = [Kubelet(api, number, 12, account) for number in range(1, 9)]
    for node in nodes:
        node.start()
    for node in nodes:
        node.join()
    time.sleep(1)  # nothing waits for this: the kubelets' last words come by watch
    holds = [
        AddressInterval(cluster="c", node=node, ip=ip, uid=uid, namespace="default", pod=uid, first=start,
        start=start, end=end,
             last=end)
        for ip, node, uid, start, end in account.held
    ]  # fmt: skip
    # A worker that comes later, after all of those pods: it has what probes told, and nothing else.
    _, later = watch()
    for hold in holds:
        told.addresses.add_interval(hold)
        later.addresses.add_interval(hold)
    held = sum(account.who(ip, at) is not None for ip, at in account.packets)
    assert len(account.held) > 40
    assert held > 500
    # All are read a long time after they were sent: the index has moved on.
    outcome = {
        "by the watch": _names(watched, account, "n999"),
        "by probes": _names(told, account, "n999"),
        "by probes, later": _names(later, account, "n999"),
    }
    assert {name: wrong for name, (_, _, wrong) in outcome.items()} == dict.fromkeys(outcome, 0), outcome
    print(f"\n{len(account.held)} pods, {len(account.packets)} packets, {held} to somebody: {outcome}")
    own = [sum(_names(told, Account(account.held, [p for p in account.packets if p[0] == node._ip]), node._node)[:1])
           for node in nodes]  # fmt: skip
    assert sum(own) == held, "on the node's own clock every packet to somebody is named"
    assert outcome["by probes"][0] > 0.2 * held
