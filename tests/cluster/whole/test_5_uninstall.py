"""All that was recorded, all that was asked for, and what an uninstall leaves: nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.cluster.whole.real import ROOT, SYSTEM, Real, addresses, until
from tests.cluster.whole.story import Pod

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400), pytest.mark.usefixtures("guarded")]

AUDIT_LOG = Path("/var/lib/kubeweir-cluster/logs/audit.log")
SCHEMA = ROOT / "enrich/schemas/flow.schema.json"


class Told:
    """What kubectl says: of every pod that there ever was, of nodes and of Services."""

    def __init__(self, real: Real) -> None:
        self.pods: dict[str, Pod] = {}
        self.ips: dict[str, set[str]] = {}
        for pod in real.seen_pods():
            uid = pod["metadata"]["uid"]
            self.pods[uid] = pod
            self.ips.setdefault(uid, set()).update(entry["ip"] for entry in pod["status"].get("podIPs", []))
        self.nodes = {n["metadata"]["name"] for n in real.get("nodes")["items"]}
        self.services = {
            (ip, s["metadata"]["namespace"], s["metadata"]["name"])
            for s in json.loads(real.kubectl("get", "services", "-A", "-o", "json"))["items"]
            for ip in s["spec"]["clusterIPs"]
        }

    def problem(self, end: dict[str, Any], ip: str | None) -> str | None:
        """What is wrong with an end of a record."""
        if "pod_uid" not in end:
            return None if end.get("node_name", next(iter(self.nodes))) in self.nodes else "no such node"
        pod = self.pods.get(end["pod_uid"])
        if pod is None:
            return "no such pod"
        wanted = (pod["metadata"]["name"], pod["metadata"]["namespace"], pod["spec"].get("nodeName"))
        if (end["pod_name"], end["namespace"], end.get("node_name")) != wanted:
            return f"kubectl says {wanted}"
        owner = next(iter(pod["metadata"].get("ownerReferences", [])), None)
        if owner and owner["kind"] == "ReplicaSet":
            owner = {"kind": "Deployment", "name": owner["name"].rpartition("-")[0]}
        if owner and (end.get("workload_kind"), end.get("workload_name")) != (owner["kind"], owner["name"]):
            return f"kubectl says {owner}"
        known = self.ips[end["pod_uid"]]
        return f"kubectl says {known}" if ip and known and ip not in known else None


def test_every_name_in_every_record_is_what_kubectl_says(real: Real) -> None:
    told, records = Told(real), real.records()
    wrong = []
    for record in records:
        connection = record["connection"]
        for side in ("src", "dest"):
            if problem := told.problem(record[side], connection.get(f"{side}_ip")):
                wrong.append((side, problem, record))
        there = record.get("dialled", {})
        if (
            "service" in there
            and (there["ip"], there["service"]["namespace"], there["service"]["name"]) not in told.services
        ):
            wrong.append(("dialled", "no such Service", record))
    assert len(records) > 200
    assert not wrong, wrong[:5]


def test_records_fit_their_schema(real: Real) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    shapes = {
        (r["reason"], r["disposition"], *sorted(r), *sorted(r["src"]), *sorted(r["dest"])): r for r in real.records()
    }
    for record in shapes.values():
        validator.validate(record)


def test_nothing_was_asked_for_that_the_account_may_not(real: Real) -> None:
    events = [json.loads(line) for line in AUDIT_LOG.read_text().splitlines()]
    assert {e["user"]["username"].rpartition(":")[2] for e in events} == {"weir-probe", "weir-streams"}
    assert "create" in {e["verb"] for e in events}
    refused = {(e["user"]["username"], e["verb"], e["requestURI"].partition("?")[0], e["responseStatus"]["code"])
               for e in events if e["responseStatus"]["code"] in (401, 403)}  # fmt: skip
    assert not refused


def waiting(pod: Pod) -> str:
    """Why its container does not run."""
    statuses = pod["status"].get("containerStatuses", [])
    return statuses[0]["state"].get("waiting", {}).get("reason", "") if statuses else ""


def left_on(real: Real, node: str) -> list[str]:
    """What there is of kubeweir on a node."""
    found = real.on(node, "find", "/sys/fs/bpf", "-mindepth", "1", "-not", "-name", "*.debug").split()
    for link in json.loads(real.on(node, "ip", "-j", "link")):
        for hook in ("ingress", "egress"):
            found += real.on(node, "tc", "filter", "show", "dev", link["ifname"], hook).splitlines()
    found += [name for name in real.on(node, "ls", "/run/kubeweir").split() if name != "probe.lock"]
    return found


def test_uninstalling_opens_everything_and_leaves_nothing(real: Real, web: list[Pod], stranger: Pod) -> None:
    """A node whose probe crashes at that time does not hear of it: there, as the README says."""
    real.kubectl("-n", SYSTEM, "set", "env", "ds/weir-probe", "WEIR_ATTACH=wrongly")

    def crashed() -> list[Pod]:
        label = "app.kubernetes.io/name"
        return [p for p in real.pods("weir-probe", SYSTEM, label) if waiting(p) == "CrashLoopBackOff"]

    until("a probe that crashes over and over", lambda: len(crashed()) == 1)
    closed = crashed()[0]["spec"]["nodeName"]
    for pod in web:
        assert not real.connects(stranger, addresses(pod)[0])
    real.kubectl("delete", "-k", real.overlay, "--timeout=120s")
    for pod in web:
        for address in addresses(pod):
            assert real.connects(stranger, address) == (pod["spec"]["nodeName"] != closed)
    real.kubectl("apply", "-k", real.folder / "kubernetes/detach", "--validate=strict")
    real.kubectl("-n", "kube-system", "rollout", "status", "ds/weir-detach", "--timeout=120s")
    real.kubectl("delete", "-k", real.folder / "kubernetes/detach", "--timeout=120s", "--cascade=foreground")
    for pod in web:
        for address in addresses(pod):
            assert real.connects(stranger, address)
    for node in real.nodes():
        assert left_on(real, node) == []
    assert "weir" not in real.kubectl("get", "clusterroles,clusterrolebindings,namespaces,ds", "-A", "-o", "name")
