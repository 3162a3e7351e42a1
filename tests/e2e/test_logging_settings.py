"""Each setting of GKE's NetworkLogging, in a folder of manifests: which verdicts of real packets appear, and which not.

There are four kinds of datagrams: one that policies allow at both ends, of which only one, at the server, asks to be
logged; one that no policy decides; one that is denied to the server, whose namespace asks; one that is denied to the
client, whose namespace does not.
"""

from __future__ import annotations

from itertools import product
from typing import Any, Final

import pytest

from enrich.wire.batch import Verdict
from tests.e2e.node import CLOSED, OPEN, Node, Rows
from tests.e2e.test_logging import DELEGATE, LOG, OFF, put, wait_for

pytestmark = pytest.mark.e2e

_CLIENT_CLOSED: Final = 7
_MANIFESTS: Final = f"""\
apiVersion: v1
kind: Namespace
metadata: {{name: asks, uid: uid-asks, annotations: {{policy.network.gke.io/enable-deny-logging: "true"}}}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: other, uid: uid-other, annotations: {{policy.network.gke.io/enable-deny-logging: "yes"}}}}
---
apiVersion: v1
kind: Node
metadata: {{name: n1, uid: uid-n1}}
status: {{addresses: [{{type: InternalIP, address: 192.0.2.1}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: other, uid: uid-client}}
spec: {{nodeName: n1, containers: [{{name: main, image: none}}]}}
status: {{phase: Running, podIP: 10.244.0.1, podIPs: [{{ip: 10.244.0.1}}, {{ip: "fd44::1"}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: server, namespace: asks, uid: uid-server}}
spec: {{nodeName: n1, containers: [{{name: main, image: none}}]}}
status: {{phase: Running, podIP: 10.244.0.2, podIPs: [{{ip: 10.244.0.2}}, {{ip: "fd44::2"}}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: high-ports, namespace: asks, annotations: {{policy.network.gke.io/enable-logging: "true"}}}}
spec: {{podSelector: {{}}, ingress: [{{ports: [{{protocol: UDP, port: {OPEN}}}]}}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: same-ports, namespace: asks, annotations: {{policy.network.gke.io/enable-logging: "True"}}}}
spec: {{podSelector: {{}}, ingress: [{{ports: [{{protocol: UDP, port: {OPEN}}}]}}]}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: not-{_CLIENT_CLOSED}, namespace: other}}
spec: {{podSelector: {{}}, policyTypes: [Egress], egress: [{{ports: [{{protocol: UDP, port: 8, endPort: 65535}}]}}]}}
"""
SETTINGS: Final = list(product((OFF, LOG, DELEGATE), repeat=2))
"""``allow`` and ``deny`` of all objects that are valid."""
_MODES: Final = ("none", "all", "delegated")
Shown = tuple[str, str, frozenset[str]]
"""The pod whose policy decided, the verdict, and the names of the policies."""
_ALLOWED_IN: Final = ("server", "allow", frozenset({"high-ports", "same-ports"}))
_ASKED_IN: Final = ("server", "allow", frozenset({"high-ports"}))
_ALLOWED_OUT: Final = ("client", "allow", frozenset({f"not-{_CLIENT_CLOSED}"}))
_UNDECIDED: Final = {("server", "allow", frozenset[str]()), ("client", "allow", frozenset[str]())}
_DENIED_IN: Final = ("server", "deny", frozenset({"high-ports", "same-ports"}))
_DENIED_OUT: Final = ("client", "deny", frozenset({f"not-{_CLIENT_CLOSED}"}))


def expected(allow: dict[str, bool], deny: dict[str, bool]) -> dict[str, set[Shown]]:
    """Return what appears of each kind of datagram, as GKE documents it."""
    allowed: set[Shown] = {_ALLOWED_IN, _ALLOWED_OUT} if allow == LOG else {_ASKED_IN} if allow == DELEGATE else set()
    return {
        "allowed": allowed,
        "undecided": _UNDECIDED if allow == LOG else set(),
        # It leaves the client, which logs that.
        "denied in": ({_ALLOWED_OUT} if allow == LOG else set()) | ({_DENIED_IN} if deny != OFF else set()),
        "denied out": {_DENIED_OUT} if deny == LOG else set(),
    }


def send(node: Node, number: int) -> dict[str, int]:
    """Send a datagram of each kind, each from a port of its own, and return the ports."""
    ports: dict[str, int] = {}
    kinds = {"allowed": (False, OPEN), "undecided": (True, OPEN), "denied in": (False, CLOSED),
             "denied out": (False, _CLIENT_CLOSED)}  # fmt: skip
    for place, (kind, (by_server, port)) in enumerate(kinds.items()):
        ports[kind] = 20_000 + 10 * number + place
        with node.socket(ports[kind], server=by_server) as sender:
            sender.sendto(b"x", ((node.client if by_server else node.server).address(4), port))
    return ports


@pytest.mark.timeout(900)
def test_each_setting_logs_what_gke_documents_and_nothing_else(node: Node) -> None:
    (node.folder / "manifests/all.yaml").write_text(_MANIFESTS)
    probe = node.begin()
    sent = []
    for number, (allow, deny) in enumerate(SETTINGS):
        put(node, allow, deny)
        modes = [_MODES[(OFF, LOG, DELEGATE).index(one)] for one in (allow, deny)]
        default = "all" if allow == LOG else "none"
        wait_for(probe, allowed=modes[0], default_allowed=default, denied=modes[1])
        sent.append(send(node, number))
    assert probe.stop() == 0, probe.log.read_text()
    batches = node.batches()
    found: dict[int, set[Shown]] = {}
    for batch in batches:
        for row in batch.verdicts:
            policies = frozenset(ref.name for ref in batch.header.rules.get(str(row["rule"]), ()))
            pod = batch.header.endpoints[str(row["endpoint"])].pod
            verdict = Verdict(int(row["verdict"]) & 0x7F).name.lower()
            found.setdefault(int(row["source_port"]), set()).add((pod, verdict, policies))
    assert Rows(batches).numbers
    for (allow, deny), ports in zip(SETTINGS, sent, strict=True):
        shown: dict[str, Any] = {kind: found.get(port, set()) for kind, port in ports.items()}
        assert shown == expected(allow, deny), f"allow: {allow}, deny: {deny}"
