"""A run that is described and not made, for tests of the account."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.custody.account import Account
from tests.custody.packets import ICMP, TCP, UDP, Packet, Tuple
from tests.custody.policies import Policy, Ports, Rule
from tests.custody.report import Report
from tests.custody.script import CLUSTER, NODES, Change, Host, Script, Service

S = 1_000_000_000
START = 1_795_000_000 * S
CLIENT = Host("client", ("10.0.0.1",), "client", "uid-client", "client", "n1", START)
SERVER = Host("server", ("10.0.0.2",), "server", "uid-server", "server", "n2", START)
OLD = Host("old", ("10.0.0.7",), "churn", "uid-old", "old", "n1", START, START + 100 * S)
NEW = Host("new", ("10.0.0.7",), "churn", "uid-new", "new", "n2", START + 101 * S)
WORLD = Host("world", ("198.51.100.7",), place="world")
LOW = Policy("low", "server", "ingress", (Rule(("client",), ports=(Ports(TCP, 8000, 8099), Ports(UDP, 9000, 9099))),))
OPEN = Policy("open", "server", "ingress", (Rule(),))


class SampleRun:
    """A run as it should be: what was captured and what was logged."""

    def __init__(self) -> None:
        self.script = Script(
            [CLIENT, SERVER, OLD, NEW, WORLD],
            [
                Change(START, dict.fromkeys(NODES, START), frozenset({LOW})),
                Change(START + 50 * S, dict.fromkeys(NODES, START + 51 * S), frozenset({LOW, OPEN})),
            ],
            [Service(TCP, "10.96.0.1", 80, "10.0.0.2", 8001, "echo")],
        )
        self.packets: list[Packet] = []
        self.records: list[dict[str, Any]] = []

    def send(self, at_s: float, ends: tuple[Host, Host], flow: Tuple, *, arrives: bool = True, **more: Any) -> None:
        """Capture a packet where it is sent, and where it arrives."""
        at, mark = START + int(at_s * S), len(self.packets)
        self.packets.append(Packet(at, ends[0].place, is_sent=True, flow=flow, mark=mark, **more))
        if arrives:
            to = {("10.96.0.1", 80): ("10.0.0.2", 8001)}.get((flow.destination, flow.destination_port))
            inside = flow._replace(destination=to[0], destination_port=to[1]) if to else flow
            self.packets.append(Packet(at + 1000, ends[1].place, is_sent=False, flow=inside, mark=mark, **more))

    def log(self, at_s: float, ends: tuple[Host, Host], flow: Tuple, end: str, reason: str, *policies: str,
            count: int = 1, dialled: dict[str, Any] | None = None) -> None:  # fmt: skip
        """Log a record as the product does."""
        names = [{"kind": "NetworkPolicy", "namespace": "shop", "name": name} for name in policies]
        denied = reason in {"default_deny", "unknown_flow"}
        at = datetime.fromtimestamp(int(START / S + at_s), UTC).strftime("%Y-%m-%dT%H:%M:%S")
        record: dict[str, Any] = {
            "connection": {"src_ip": flow.source, "dest_ip": flow.destination, "direction": end},
            "disposition": "deny" if denied else "allow", "reason": reason, "policies": [] if denied else names,
            "isolated_by": names if denied else [], "src": end_of(ends[0]), "dest": end_of(ends[1]), "count": count,
            "timestamp": f"{at}.{int(at_s % 1 * S):09d}Z", "node_name": ends[end == "ingress"].node, "cluster": CLUSTER,
            "id": f"ring-{len(self.records)}",
        }  # fmt: skip
        record["connection"]["protocol"] = {TCP: "tcp", UDP: "udp", ICMP: "icmp"}[flow.protocol]
        if flow.protocol == ICMP:
            record["icmp"] = {"type": flow.destination_port >> 8, "code": flow.destination_port & 255}
        else:
            record["connection"] |= {"src_port": flow.source_port, "dest_port": flow.destination_port}
        if dialled:
            record["dialled"] = dialled
        self.records.append(record)

    def account(self) -> Report:
        """Make the account."""
        return Account(self.script, self.packets, self.records).report()


def end_of(host: Host) -> dict[str, Any]:
    """Return the end of a record as the product names it."""
    if not host.is_pod:
        return {"instance": host.addresses[0]}
    return {"pod_name": host.name, "namespace": "shop", "pod_namespace": "shop", "pod_uid": host.uid}


def flow_of(protocol: int, source: Host, destination: Host, port: int, own: int = 20_000) -> Tuple:
    return Tuple(protocol, source.addresses[0], own, destination.addresses[0], port)


ALLOWED = flow_of(TCP, CLIENT, SERVER, 8001)
DENIED = flow_of(UDP, CLIENT, SERVER, 9101)
LATE = flow_of(TCP, CLIENT, NEW, 8001)
DIALLED = Tuple(TCP, "10.0.0.1", 20_001, "10.96.0.1", 80)
BACKEND = Tuple(TCP, "10.0.0.1", 20_001, "10.0.0.2", 8001)
PING = Tuple(ICMP, "10.0.0.1", 77, "10.0.0.2", 8 << 8)
OUT = flow_of(UDP, CLIENT, WORLD, 53)
LARGE = flow_of(UDP, CLIENT, SERVER, 9001)
