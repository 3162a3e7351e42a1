"""Tests at the end: all records are right, no API request was refused, and an uninstall leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.cluster.whole.real import ROOT, SYSTEM, TIMEOUT_S, Real, addresses, until
from tests.cluster.whole.story import Pod, left_on
from tests.whole_lines import whole_lines

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400), pytest.mark.usefixtures("guarded")]

AUDIT_LOG = Path("/var/lib/kubeweir-cluster/logs/audit.log")
SCHEMA = ROOT / "enrich/schemas/flow.schema.json"


class Known:
    """The objects that kubectl has listed: every pod that ever existed, the nodes and the Services."""

    def __init__(self, real: Real) -> None:
        self.pods: dict[str, Pod] = {}
        self.ips: dict[str, set[str]] = {}
        for pod in real.seen_pods():
            uid = pod["metadata"]["uid"]
            self.pods[uid] = pod
            self.ips.setdefault(uid, set()).update(entry["ip"] for entry in pod["status"].get("podIPs", []))
        self.nodes = {n["metadata"]["name"] for n in real.get("nodes")["items"]}
        node_ips = {entry["address"] for n in real.get("nodes")["items"] for entry in n["status"]["addresses"]}
        self.services = {
            (ip, port, s["metadata"]["namespace"], s["metadata"]["name"])
            for s in json.loads(real.kubectl("get", "services", "-A", "-o", "json"))["items"]
            for entry in s["spec"]["ports"]
            for ips, port in ((s["spec"]["clusterIPs"], entry["port"]), (node_ips, entry.get("nodePort")))
            for ip in ips
        }

    def problem(self, end: dict[str, Any], ip: str | None) -> str | None:
        """Return what is wrong with an end of a record, or None."""
        if "pod_uid" not in end:
            return None if end.get("node_name", next(iter(self.nodes))) in self.nodes else "no such node"
        pod = self.pods.get(end["pod_uid"])
        if pod is None:
            return "no such pod"
        expected = (pod["metadata"]["name"], pod["metadata"]["namespace"], pod["spec"].get("nodeName"))
        if (end["pod_name"], end["namespace"], end.get("node_name")) != expected:
            return f"kubectl has {expected}"
        owner = next(iter(pod["metadata"].get("ownerReferences", [])), None)
        if owner and owner["kind"] == "ReplicaSet":
            owner = {"kind": "Deployment", "name": owner["name"].rpartition("-")[0]}
        if owner and (end.get("workload_kind"), end.get("workload_name")) != (owner["kind"], owner["name"]):
            return f"kubectl has {owner}"
        known = self.ips[end["pod_uid"]]
        return f"kubectl has {known}" if ip and known and ip not in known else None


def test_every_name_in_every_record_is_the_one_that_kubectl_has(real: Real) -> None:
    known, records = Known(real), real.records()
    wrong = []
    for record in records:
        connection = record["connection"]
        for side in ("src", "dest"):
            if problem := known.problem(record[side], connection.get(f"{side}_ip")):
                wrong.append((side, problem, record))
        there = record.get("dialled", {})
        if (named := there.get("service")) and (
            there["ip"], there["port"], named["namespace"], named["name"]
        ) not in known.services:  # fmt: skip
            wrong.append(("dialled", "no such Service", record))
    assert len(records) > 200
    assert not wrong, wrong[:5]


def test_records_match_their_schema(real: Real) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    shapes = {
        (r["reason"], r["disposition"], *sorted(r), *sorted(r["src"]), *sorted(r["dest"])): r for r in real.records()
    }
    for record in shapes.values():
        validator.validate(record)


def test_no_request_to_the_api_server_was_forbidden(real: Real) -> None:
    events = [json.loads(line) for line in whole_lines(AUDIT_LOG)]
    assert {e["user"]["username"].rpartition(":")[2] for e in events} == {"weir-probe", "weir-streams", "weir-web"}
    assert "create" in {e["verb"] for e in events}
    refused = {(e["user"]["username"], e["verb"], e["requestURI"].partition("?")[0], e["responseStatus"]["code"])
               for e in events if e["responseStatus"]["code"] in (401, 403)}  # fmt: skip
    assert not refused


def waiting(pod: Pod) -> str:
    """Return why the pod's container does not run."""
    statuses = pod["status"].get("containerStatuses", [])
    return statuses[0]["state"].get("waiting", {}).get("reason", "") if statuses else ""


def test_an_uninstall_ends_enforcement_and_leaves_nothing(real: Real, web: list[Pod], stranger: Pod) -> None:
    """On a node whose probe crashes at that time, enforcement ends with deploy/kubernetes/detach, as documented."""
    real.kubectl("-n", SYSTEM, "set", "env", "ds/weir-probe", "WEIR_ATTACH=wrongly")

    def crashed() -> list[Pod]:
        label = "app.kubernetes.io/name"
        return [p for p in real.pods("weir-probe", SYSTEM, label) if waiting(p) == "CrashLoopBackOff"]

    until("a probe in CrashLoopBackOff", lambda: len(crashed()) == 1)
    closed = crashed()[0]["spec"]["nodeName"]
    for pod in web:
        assert real.gets_no_answer(stranger, addresses(pod)[0])
    real.kubectl("delete", "-k", real.overlay, f"--timeout={TIMEOUT_S}s")
    for pod in web:
        for address in addresses(pod):
            is_as_expected = real.gets_no_answer if pod["spec"]["nodeName"] == closed else real.connects
            assert is_as_expected(stranger, address)
    real.kubectl("apply", "-k", real.folder / "kubernetes/detach", "--validate=strict")
    real.wait_rolled_out("ds/weir-detach", "kube-system")
    real.kubectl("delete", "-k", real.folder / "kubernetes/detach", f"--timeout={TIMEOUT_S}s", "--cascade=foreground")
    for pod in web:
        for address in addresses(pod):
            assert real.connects(stranger, address)
    for node in real.nodes():
        assert left_on(real, node) == []
    assert "weir" not in real.kubectl("get", "clusterroles,clusterrolebindings,namespaces,ds", "-A", "-o", "name")
