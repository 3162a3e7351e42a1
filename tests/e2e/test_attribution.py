"""From netlink to the worker: pods whose addresses are reused at once, and workers that start when all pods are gone.

Real interfaces appear and disappear. The test updates the API server as a kubelet does: late, and in whole seconds. The
probe is killed in between, and so is the first worker. The test keeps its own account of which pod had which address
when; a name in a record that the account contradicts is wrong.
"""

from __future__ import annotations

import itertools
import random
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from netns import Net, Space, ip, open_socket

from tests.cluster.apiserver import ApiServer, Caller
from tests.cluster.conftest import api, binaries  # noqa: F401 - fixtures
from tests.e2e.node import Broker, Probe
from tests.kafka.site import Site, until

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.timeout(900)]

S = 1_000_000_000
NODE = "n1"
SECONDS = 8.0
SPACES = 4
"""Namespaces of each address: they are used in turn, each again once the interface of its last pod is gone."""
REUSED = tuple(f"10.244.7.{number}" for number in range(1, 4))
PODS = "/api/v1/namespaces/default/pods"


SPEC = {"nodeName": NODE, "containers": [{"name": "main", "image": "none"}]}


@dataclass
class Account:
    """Who had which address: address, UID, from when it may and did have it, until when it did and may have."""

    held: list[tuple[str, str, int, int, int, int]] = field(default_factory=list)

    def may_be(self, ip: str, at: int) -> set[str]:
        return {uid for held, uid, first, _, _, last in self.held if held == ip and first <= at <= last}

    def near(self, ip: str, at: int) -> str:
        """In words, milliseconds from the moment: from when it may, had, until when it did, may have."""
        times = [(uid, [round((one - at) / 1e6, 1) for one in rest]) for held, uid, *rest in self.held if held == ip]
        return ", ".join(f"{uid} {rest}" for uid, rest in times if min(map(abs, rest)) < 3000)

    def surely(self, ip: str, at: int) -> str | None:
        return next((uid for held, uid, _, had, until, _ in self.held if held == ip and had <= at < until), None)


class Kubelet(threading.Thread):
    """Starts pods that take over one address from each other within a second, often before the API server shows that
    the last one is gone. Not so while ``calm`` is set: a probe that does not run cannot know of that."""

    def __init__(self, server: ApiServer, node: Space, spaces: list[Space], ip: str, account: Account) -> None:
        super().__init__()
        self._caller, self._node, self._ip, self._account = Caller(server), node, ip, account
        self._spaces = spaces
        self._name = ip.replace(".", "-")
        self._chance = random.Random(ip)  # noqa: S311 - the same each time
        self.calm, self.over = threading.Event(), threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            before = ""
            for number, space in enumerate(itertools.cycle(self._spaces)):
                if self.over.is_set():
                    break
                before = self._one(f"reuse-{self._name}-{number}", space, before)
            self._caller.delete(f"{PODS}/{before}")
            self._caller.close()
        except BaseException as error:
            self.error = error
            raise

    def _one(self, name: str, space: Space, before: str) -> str:
        if before and self.calm.is_set():
            self._caller.delete(f"{PODS}/{before}")
            before = ""
        uid = self._caller.create(PODS, {"metadata": {"name": name, "labels": {"app": name}}, "spec": SPEC})
        begun = _text()
        link = f"c{space.name.rpartition('-')[2]}"
        first = time.time_ns()
        ip(self._node, f"link add {link} type veth peer name eth0 netns {space.name}",
           f"link set {link} up", f"route add {self._ip}/32 dev {link}")  # fmt: skip
        ip(space, "link set lo up", "link set eth0 up", f"addr add {self._ip}/32 dev eth0",
           "route add 169.254.1.1 dev eth0", "route add default via 169.254.1.1 dev eth0 onlink")  # fmt: skip
        has_address = time.time_ns()
        if before:
            time.sleep(self._chance.random() * 0.3)
            self._caller.delete(f"{PODS}/{before}")
        time.sleep(self._chance.random() * 0.3)
        ready = {"type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": _text()}
        status = {"podIP": self._ip, "podIPs": [{"ip": self._ip}], "phase": "Running", "startTime": begun}
        self._caller.status(f"{PODS}/{name}", {**status, "conditions": [ready]})
        time.sleep(self._chance.choice((0.2, 0.8, 2.0)))
        end = time.time_ns()
        ip(self._node, f"link del {link}")
        self._account.held.append((self._ip, uid, first, has_address, end, time.time_ns()))
        time.sleep(self._chance.choice((0.0, 0.1, 0.3)))
        return name


class Sender(threading.Thread):
    """A pod that stays, and sends to the reused addresses by a new flow each time."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.sent = 0
        self.over = threading.Event()
        self._socket = open_socket(space, 4, socket.SOCK_DGRAM)

    def run(self) -> None:
        with self._socket as out:
            while not self.over.wait(0.01):
                for ip in REUSED:
                    try:
                        out.sendto(b"x", (ip, 1024 + self.sent))
                    except OSError:
                        continue  # no route, or what an ICMP error of an earlier one left
                    self.sent += 1


@pytest.fixture
def net() -> Iterator[Net]:
    made = Net()
    yield made
    made.close()


@pytest.fixture
def site(_broker: Broker, tmp_path: Path) -> Iterator[Site]:
    _broker.start()
    made = Site(_broker.address, f"e2e{secrets.token_hex(4)}", tmp_path)
    yield made
    made.end()


class Probes:
    """`weir-probe` on the node, one after the other."""

    def __init__(self, site: Site, node: Space, pins: Path, more: dict[str, str]) -> None:
        self._site, self._pins = site, pins
        folder = site.folder
        self._env = site.env(
            **more, WEIR_NODE=NODE, WEIR_NETNS=str(node.path), WEIR_PIN_DIR=str(pins), WEIR_RUN_DIR=str(folder / "run"),
            WEIR_STATE_DIR=str(folder / "state"),
        )  # fmt: skip
        self.now: Probe

    def start(self) -> None:
        self.now = Probe(self._env, self._site.folder / f"probe-{time.monotonic_ns()}.log")
        self.now.wait_for("started")

    def wait_for(self, pods: int) -> None:
        until(lambda: self.now.metric("kubeweir_probe_attached_pods") == pods or None, "pods under policy")

    def end(self) -> None:
        if self.now.process.poll() is None:
            self.now.kill()
        shutil.rmtree(self._pins, ignore_errors=True)


def test_no_name_is_wrong_from_the_interface_to_a_worker_that_comes_later(
    api: ApiServer,  # noqa: F811 - a fixture
    _broker: Broker,  # noqa: PT019 - it is asked for batches
    site: Site,
    net: Net,
) -> None:
    config = {"KUBECONFIG": str(api.kubeconfig("admin")), "WEIR_SOURCE": "kubernetes"}
    node, account = net.node(), Account()
    spaces = {ip: [net._space(f"k{part}{turn}", (ip,)) for turn in range(SPACES)] for part, ip in enumerate(REUSED)}
    kubelets = [Kubelet(api, node, spaces[ip], ip, account) for ip in REUSED]
    probes = Probes(site, node, Path("/sys/fs/bpf") / f"kubeweir-test-{net.prefix}", config)
    threads: list[Kubelet | Sender] = [*kubelets]
    try:
        probes.start()
        sender = Sender(_client(api, net, node))
        threads.append(sender)
        probes.wait_for(1)
        for thread in threads:
            thread.start()
        time.sleep(SECONDS)  # nothing waits for this: it is how long it goes on
        for kubelet in kubelets:
            kubelet.calm.set()
        time.sleep(1)  # the pods that were started are published by then
        probes.now.kill()
        probes.start()
        until(lambda: True if "policy:" not in probes.now.get("/readyz")[1] else None, "policy in force")
        for kubelet in kubelets:
            kubelet.calm.clear()
        time.sleep(SECONDS)
        for kubelet in kubelets:
            kubelet.over.set()
            kubelet.join()
        sender.over.set()
        sender.join()
        probes.wait_for(1)
        assert probes.now.stop() == 0
    finally:
        for thread in threads:
            thread.over.set()
            if thread.is_alive():
                thread.join()
        probes.end()
    assert [kubelet.error for kubelet in kubelets if kubelet.error] == []
    batches = _broker.batches(f"{site.prefix}.verdicts.raw")
    rows = {(batch.header.ring, number) for batch in batches for number in batch.numbers().tolist()}
    _compare(_read_later(site, len(rows), config), account)


def _client(server: ApiServer, net: Net, node: Space) -> Space:
    caller, ip = Caller(server), "10.244.7.99"
    caller.create(PODS, {"metadata": {"name": "client"}, "spec": SPEC})
    space = net.pod(node, ip)
    caller.status(f"{PODS}/client", {"podIP": ip, "podIPs": [{"ip": ip}], "phase": "Running", "startTime": _text()})
    caller.close()
    return space


def _read_later(site: Site, rows: int, config: dict[str, str]) -> list[dict[str, Any]]:
    """Read the records of two workers that start when all pods are gone; the first is killed."""
    first = site.start_enrich(**config)
    site.read_flows(1)
    first.process.kill()
    site.start_enrich(**config)
    return site.read_flows(rows)


def _compare(flows: list[dict[str, Any]], account: Account) -> None:
    right = none = certain = 0
    wrong: dict[str, list[str]] = {"subject": [], "peer": []}
    for flow in {flow["id"]: flow for flow in flows}.values():
        subject = "dest" if flow["connection"]["direction"] == "ingress" else "src"
        for end in ("src", "dest"):
            ip = flow["connection"][f"{end}_ip"]
            if ip not in REUSED:
                continue
            at, named = _nanoseconds(flow["timestamp"]), flow[end].get("pod_uid")
            right += named in account.may_be(ip, at)
            none += named is None
            certain += account.surely(ip, at) is not None
            if named is not None and named not in account.may_be(ip, at):
                what = flow["connection"]["direction"], flow["reason"], flow["connection"]["protocol"]
                text = f"{what} {end} {ip} named {named} at {at}; milliseconds from then: {account.near(ip, at)}"
                wrong["subject" if end == subject else "peer"].append(text)
    peers, subjects = len(wrong["peer"]), len(wrong["subject"])
    summary = (f"{len(account.held)} pods, {len(flows)} flows: {right} ends right, {none} not named, {peers} peers and "
            f"{subjects} subjects wrong; {certain} surely somebody's")  # fmt: skip
    print(f"\n{summary}")
    assert not peers + subjects, "\n".join([summary, *wrong["peer"][:20], *wrong["subject"][:20]])
    assert len(account.held) >= 3 * len(REUSED)
    assert right > certain / 4 > 100


def _nanoseconds(text: str) -> int:
    whole, _, rest = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(f"{whole}+00:00").timestamp())
    return seconds * S + int(rest.ljust(9, "0") or 0)


def _text() -> str:
    return datetime.fromtimestamp(int(time.time()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
