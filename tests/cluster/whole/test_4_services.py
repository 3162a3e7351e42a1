"""Tests of Services: policy is enforced at the backend that kube-proxy chose, and the record names both."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.cluster.whole.real import (
    HOST,
    HOST_6,
    NAMESPACE,
    PORT,
    ROOT,
    Real,
    addresses,
    deployment,
    policy,
    run,
    service,
    until,
)
from tests.cluster.whole.story import Pod, assert_named, at_once

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400), pytest.mark.usefixtures("guarded")]


def dialled(real: Real, name: str, address: str, port: int = 80, namespace: str = NAMESPACE) -> dict[str, Any]:
    """Return a record's field ``dialled`` for a Service; kubectl must know the address as the Service's."""
    assert address in real.get("service", name, namespace=namespace)["spec"]["clusterIPs"]
    return {"ip": address, "port": port, "service": {"namespace": namespace, "name": name}}


def reaches(address: str, port: int) -> bool:
    """Return whether a connection from this machine, which is outside of the nodes, is established."""
    try:
        socket.create_connection((address, port), 1).close()
    except TimeoutError:
        return False
    return True


def test_policy_is_enforced_at_a_services_backends(
    real: Real, web: list[Pod], clients: list[Pod], stranger: Pod
) -> None:
    for address in real.get("service", "web")["spec"]["clusterIPs"]:
        there = dialled(real, "web", address)

        def both_answered(there: dict[str, Any] = there, address: str = address) -> bool:
            """Return whether the backend on the client's node and the one on the other node have answered."""
            assert real.connects(clients[0], address, port=80)
            records = real.records_with(dialled=there, disposition="allow", direction="egress")
            return {r["dest"]["pod_name"] for r in records} == {pod["metadata"]["name"] for pod in web}

        until(f"both backends of {address} have answered", both_answered)
        assert all(real.gets_no_answer(stranger, address, port=80) for _ in range(2))
        # Only the client's node knows the Service; the backend may be on another node, and policy denies there.
        sent = real.record(dialled=there, direction="egress", src_ip=addresses(stranger)[":" in address])
        refused = real.record(
            direction="ingress",
            **{key: sent["connection"][key] for key in ("src_ip", "src_port", "dest_ip", "dest_port")},
        )
        assert refused["disposition"] == "deny"
        (backend,) = [pod for pod in web if sent["connection"]["dest_ip"] in addresses(pod)]
        for record in (sent, refused):
            assert_named(record, "src", stranger, "stranger")
            assert_named(record, "dest", backend, "web")


def test_a_pod_reaches_itself_through_its_service(real: Real, web: list[Pod], stranger: Pod) -> None:
    """Its policies allow nothing in or out. The connection is a hairpin, and kube-proxy masquerades it."""
    real.apply(deployment("solo"), service("solo"), policy("solo-closed", "solo", policyTypes=["Ingress", "Egress"]))
    real.wait_ready("solo")
    (solo,) = real.pods("solo")
    real.closes(solo, addresses(web[0])[0])
    for address in real.get("service", "solo")["spec"]["clusterIPs"]:
        real.opens(solo, address, port=80)
        real.closes(stranger, address, port=80)
        for record in real.records_with(2, dialled=dialled(real, "solo", address), reason="self"):
            for side in ("src", "dest"):
                assert_named(record, side, solo, "solo")


def test_session_affinity_keeps_a_client_at_its_backend(real: Real, clients: list[Pod]) -> None:
    real.apply(service("sticky", "web", sessionAffinity="ClientIP"))
    for address in real.get("service", "sticky")["spec"]["clusterIPs"]:
        real.opens(clients[0], address, port=80)
        assert all(at_once(lambda pod, to: real.connects(pod, to, port=80), [(clients[0], address)] * 7))
        there = dialled(real, "sticky", address)
        records = real.records_with(8, dialled=there, disposition="allow", direction="egress")
        assert len({record["dest"]["pod_uid"] for record in records}) == 1


def test_a_node_port_is_under_policy_from_pods_and_from_outside(
    real: Real, web: list[Pod], clients: list[Pod], stranger: Pod
) -> None:
    port = real.get("service", "web")["spec"]["ports"][0]["nodePort"]
    nodes = {n["metadata"]["name"]: [a["address"] for a in n["status"]["addresses"] if a["type"] == "InternalIP"]
             for n in real.get("nodes")["items"]}  # fmt: skip
    for address in (address for entry in nodes.values() for address in entry):
        # kube-proxy masquerades the connection with the node's address. The node itself is always allowed, but an
        # outside client that it masquerades must not be.
        assert not reaches(address, port)
    # The client can reach only the backend on its own node: the other backend's node sees the masqueraded address.
    client = clients[0]
    node = client["spec"]["nodeName"]
    (near,) = [pod for pod in web if pod["spec"]["nodeName"] == node]
    for address in nodes[node]:
        real.opens(client, address, port=port)
        there = {"ip": address, "port": port, "service": {"namespace": NAMESPACE, "name": "web"}}
        records = real.records_with(direction="ingress", disposition="allow", dialled=there)
        for record in records:
            assert_named(record, "src", client, "client")
            assert_named(record, "dest", near, "web")
    # Through another node's port the connection is masqueraded as one from outside, for both backends.
    far = [address for name, entry in nodes.items() if name != node for address in entry]
    assert all(real.gets_no_answer(client, address, port=port) for address in far for _ in range(3))
    for address in (address for entry in nodes.values() for address in entry):
        assert all(real.gets_no_answer(stranger, address, port=port) for _ in range(3))
    # Only with externalTrafficPolicy Local does a backend's node see the client's address.
    real.apply(service("web", type="NodePort", externalTrafficPolicy="Local"))
    outside = [{"ipBlock": {"cidr": f"{HOST}/32"}}, {"ipBlock": {"cidr": f"{HOST_6}/128"}}]
    real.apply(policy("web-from-outside", "web", ingress=[{"from": outside}]))
    port = real.get("service", "web")["spec"]["ports"][0]["nodePort"]
    for node, entry in nodes.items():
        for address, here in zip(entry, (HOST, HOST_6), strict=True):
            until(f"{address} open to outside", partial(reaches, address, port))
            record = real.record(src_ip=here, node_name=node, dest_port=PORT, disposition="allow", protocol="tcp")
            assert record["src"]["instance"] == here
            (backend,) = [pod for pod in web if pod["spec"]["nodeName"] == node]
            assert_named(record, "dest", backend, "web")
            assert [p["name"] for p in record["policies"]] == ["web-from-outside"]
    real.kubectl("-n", NAMESPACE, "delete", "networkpolicy/web-from-outside")
    for address in (address for entry in nodes.values() for address in entry):

        def closed(address: str = address) -> bool:
            return not reaches(address, port)

        until(f"{address} closed to outside", closed)


NAME_SERVER = """
import ipaddress, socket, struct
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.bind(("::", 5353))
answers = {1: ipaddress.ip_address("192.0.2.7").packed, 28: ipaddress.ip_address("2001:db8::7").packed}
while True:
    query, peer = server.recvfrom(512)
    end = query.index(0, 12) + 5
    found = answers.get(struct.unpack("!H", query[end - 4:end - 2])[0])
    head = query[:2] + struct.pack("!HHHHH", 0x8580, 1, 1 if found else 0, 0, 0)
    record = b"\\xc0\\x0c" + query[end - 4:end] + struct.pack("!IH", 60, len(found)) + found if found else b""
    server.sendto(head + query[12:end] + record, peer)
"""
RESOLVE = """
import socket, sys
def resolves():
    try:
        return sorted({entry[4][0] for entry in socket.getaddrinfo("any.test.", 1)})
    except socket.gaierror as error:
        return [str(error.errno)]
def connects(address, port):
    try:
        socket.create_connection((address, port), 1).close()
    except TimeoutError:
        return False
    return True
print(resolves() == ["192.0.2.7", "2001:db8::7"], *(connects(*one.split(",")) for one in sys.argv[1:]))
"""


def python_pod(app: str, program: str, **spec: Any) -> dict[str, Any]:
    """Make a Deployment that runs a Python program in kubeweir's image, which every node has."""
    workload = deployment(app, **spec)
    container = workload["spec"]["template"]["spec"]["containers"][0]
    for key in ("args", "ports", "readinessProbe", "livenessProbe"):
        del container[key]
    container |= {"image": run(ROOT / "deploy/image/build", "--name").strip(), "command": ["python3", "-c", program]}
    return workload


def test_a_policy_for_dns_and_the_api_server_allows_only_these(real: Real, web: list[Pod]) -> None:
    names = service("dns", port=53, target=5353)
    names["spec"]["ports"] = [
        {"name": p, "protocol": p.upper(), "port": 53, "targetPort": 5353} for p in ("udp", "tcp")
    ]
    real.apply(python_pod("dns", NAME_SERVER), names)
    servers = real.get("service", "dns")["spec"]["clusterIPs"]
    apps = {server: f"resolver-{6 if ':' in server else 4}" for server in servers}
    api = {"to": [{"ipBlock": {"cidr": f"{HOST}/32"}}], "ports": [{"port": 6443}]}
    to_dns = {"to": [{"podSelector": {"matchLabels": {"app": "dns"}}}], "ports": [{"port": 5353, "protocol": "UDP"}]}
    for server, app in apps.items():
        dns_config = {
            "nameservers": [server],
            "options": [{"name": "timeout", "value": "1"}, {"name": "attempts", "value": "1"}],
        }
        real.apply(
            policy(app, app, policyTypes=["Egress"], egress=[to_dns, api]),
            python_pod(app, "import signal; signal.pause()", dnsPolicy="None", dnsConfig=dns_config),
        )  # fmt: skip
    real.wait_ready("dns", *apps.values())
    (name_server,) = real.pods("dns")
    (api_server,) = real.get("service", "kubernetes", namespace="default")["spec"]["clusterIPs"]

    for server, app in apps.items():
        (pod,) = real.pods(app)

        def resolve(pod: Pod = pod) -> list[str]:
            others = [f"{addresses(web[0])[0]},{PORT}", f"{servers[0]},53", f"{servers[1]},53"]
            words = ["python3", "-c", RESOLVE, f"{api_server},443", *others]
            # The command fails while kube-proxy does not know the Service.
            return real.kubectl("-n", NAMESPACE, "exec", pod["metadata"]["name"], "--", *words, check=False).split()

        def prints(*answers: str, resolve: Callable[[], list[str]] = resolve) -> bool:
            return resolve()[: len(answers)] == list(answers)

        until(f"{app} resolves names", partial(prints, "True", "True", "False", "False", "False"))
        there, ip = dialled(real, "dns", server, 53), addresses(pod)[servers.index(server)]
        record = real.record(dialled=there, protocol="udp", direction="egress", dest_port=5353, src_ip=ip)
        assert_named(record, "src", pod, app)
        assert_named(record, "dest", name_server, "dns")
        there = dialled(real, "kubernetes", api_server, 443, "default")
        record = real.record(dialled=there, direction="egress", dest_ip=HOST, dest_port=6443, src_ip=addresses(pod)[0])
        assert_named(record, "src", pod, app)
        real.apply(policy(app, app, policyTypes=["Egress"], egress=[api]))
        until(f"{app} no longer resolves names", partial(prints, "False", "True"))
