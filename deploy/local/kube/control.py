"""The control plane. It runs on the machine itself: etcd on loopback, the API server on the nodes' bridge."""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ports import free_ports

from kube.plan import API_PORT, BRIDGE, HOME, HOST_4, HOST_6, PODS, SERVICES, ClusterError, Plan, kubeconfig
from kube.processes import run, start, wait_for

_ADMIN, _MANAGER, _SCHEDULER, _PROXY = (
    "admin", "system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy",
)  # fmt: skip
PROXY_USER: Final = _PROXY
AUDIT_LOG: Final = HOME / "logs/audit.log"
"""Requests of the service accounts in the namespace kubeweir. Tests compare them with the rights in the manifests."""
_AUDIT_POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts:kubeweir"]}, {"level": "None"}],
}  # fmt: skip


def make_bridge() -> None:
    """Make the nodes' bridge, with an IPv4 and an IPv6 address of this machine on it."""
    if run("ip", "-4", "route", "show", "root", f"{HOST_4}/24").stdout.strip():
        raise ClusterError(f"the cluster needs the network {HOST_4}/24, and this machine already has a route to it", 3)
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "addr", "add", f"{HOST_4}/24", "dev", BRIDGE)
    run("ip", "addr", "add", f"{HOST_6}/64", "dev", BRIDGE, "nodad")
    run("ip", "link", "set", BRIDGE, "up")


def start_server(binaries: Path, plan: Plan) -> None:
    """Start etcd and the API server, and write a kubeconfig for each component."""
    run("openssl", "genrsa", "-out", HOME / "account.key", "2048")
    users = {_ADMIN: "system:masters", _MANAGER: "", _SCHEDULER: "", _PROXY: ""}
    users |= {f"system:node:{node.name}": "system:nodes" for node in plan.nodes}
    tokens = {user: secrets.token_hex(16) for user in users}
    file = HOME / "tokens.csv"
    file.touch(mode=0o600)
    file.write_text("".join(f'{tokens[user]},{user},{user},"{group}"\n' for user, group in users.items()))
    (HOME / "audit-policy.json").write_text(json.dumps(_AUDIT_POLICY))
    first = free_ports(2)
    client, peer = (f"http://127.0.0.1:{port}" for port in (first, first + 1))
    start("etcd", [
        binaries / "etcd", f"--data-dir={HOME}/etcd", f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}", "--unsafe-no-fsync=true",
    ])  # fmt: skip
    start("kube-apiserver", [
        binaries / "kube-apiserver", f"--etcd-servers={client}", f"--secure-port={API_PORT}",
        f"--bind-address={HOST_4}", f"--advertise-address={HOST_4}", f"--cert-dir={HOME}/certificates",
        f"--token-auth-file={file}", "--authorization-mode=Node,RBAC", "--allow-privileged=true",
        "--enable-admission-plugins=NodeRestriction", "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={HOME}/account.key", f"--service-account-signing-key-file={HOME}/account.key",
        f"--service-cluster-ip-range={','.join(SERVICES)}", "--kubelet-preferred-address-types=InternalIP",
        f"--audit-policy-file={HOME}/audit-policy.json", f"--audit-log-path={AUDIT_LOG}",
    ])  # fmt: skip
    _write_kubeconfigs(tokens)


def start_controllers(binaries: Path) -> None:
    """Start the controller manager and the scheduler. The API server's certificate must exist."""
    start("kube-controller-manager", [
        binaries / "kube-controller-manager", f"--kubeconfig={kubeconfig(_MANAGER)}", "--secure-port=0",
        f"--service-account-private-key-file={HOME}/account.key", f"--root-ca-file={_authority()}",
        "--use-service-account-credentials=true", "--leader-elect=false", f"--cluster-cidr={','.join(PODS)}",
        "--allocate-node-cidrs=false",
    ])  # fmt: skip
    start("kube-scheduler", [
        binaries / "kube-scheduler", f"--kubeconfig={kubeconfig(_SCHEDULER)}", "--secure-port=0",
        "--leader-elect=false",
    ])  # fmt: skip


def wait_for_server(say: Callable[[str], None]) -> None:
    """Wait until the API server is ready to serve."""
    wait_for("the API server", _missing, say)


def _missing() -> str | None:
    if not _authority().exists():
        return "its certificate"
    try:
        context = ssl.create_default_context(cafile=str(_authority()))
        with urllib.request.urlopen(f"https://{HOST_4}:{API_PORT}/readyz", timeout=5, context=context):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode(errors="replace").strip()[-200:]
    except OSError as error:
        return str(error)


def _authority() -> Path:
    """Return the path of the API server's certificate, which is self-signed and so is its own authority."""
    return HOME / "certificates/apiserver.crt"


def _write_kubeconfigs(tokens: dict[str, str]) -> None:
    wait_for("the API server's certificate", lambda: None if _authority().exists() else "not made yet", lambda _: None)
    wait_for("the API server's certificate", lambda: None if _authority().read_bytes() else "empty", lambda _: None)
    server = {
        "server": f"https://{HOST_4}:{API_PORT}",
        "certificate-authority-data": base64.b64encode(_authority().read_bytes()).decode(),
    }
    for user, token in tokens.items():
        path = kubeconfig(user)
        path.touch(mode=0o600)
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "kubeweir",
            "clusters": [{"name": "kubeweir", "cluster": server}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "kubeweir", "context": {"cluster": "kubeweir", "user": user}}],
        }))  # fmt: skip
