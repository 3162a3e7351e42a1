"""Tests that Prometheus scrapes every running role: the ports of the Services, containers and roles agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from enrich.model import NetworkPolicy
from enrich.parse.objects import parse
from enrich.runtime.settings import load
from streams.hubble.answering import MAX_SORTED_BYTES
from streams.main import PORTS, ROLES, default_roles
from streams.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
EVENTS = "components/events"
HUBBLE = "components/hubble"


def objects(*names: str) -> list[dict[str, Any]]:
    return [one for name in names for one in yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text())]


def container(workload: dict[str, Any]) -> dict[str, Any]:
    [one] = workload["spec"]["template"]["spec"]["containers"]
    return dict(one)


def exposed(name: str, *patches: str) -> dict[str, int]:
    """Return the ports of a Service by name; patches may add ports to it and to the containers."""
    found = objects("metrics.yaml", f"{name}.yaml", *patches)
    services = [one for one in found if one["kind"] == "Service" and one["metadata"]["name"] == name]
    workloads = [one for one in found if one["kind"] in {"DaemonSet", "Deployment"}]
    open_ports = {port["name"]: port["containerPort"] for one in workloads for port in container(one).get("ports", [])}
    ports = [port for one in services for port in one["spec"]["ports"]]
    # The Service has endpoints only if its selector matches the workload's pods.
    assert services[0]["spec"]["selector"] == workloads[0]["spec"]["template"]["metadata"]["labels"]
    assert {port["targetPort"] for port in ports} == {one for one in open_ports if one.startswith("metrics")}
    assert all(port["port"] == open_ports[port["targetPort"]] for port in ports)
    return {port["name"]: port["port"] for port in ports}


def served(**more: str) -> set[int]:
    """Return the ports of the roles that run with the settings of the manifests."""
    lines = (DEPLOY / "kubernetes/settings.env").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    [workload] = objects("weir-streams.yaml")
    given |= {one["name"]: one["value"] for one in container(workload)["env"] if "value" in one}
    settings = load(Settings, {**given, **more})
    first = int(settings.metrics.rpartition(":")[2])
    return {first + PORTS[role] for role in default_roles(settings)}


def settings_of(component: str) -> dict[str, str]:
    [found] = objects(f"{component}/kustomization.yaml")
    literals = [one for made in found["configMapGenerator"] for one in made.get("literals", [])]
    return dict(one.split("=", 1) for one in literals)


def test_every_role_that_runs_by_default_can_be_scraped_and_no_other() -> None:
    assert set(exposed("weir-streams").values()) == served()


@pytest.mark.parametrize("component", [EVENTS, HUBBLE])
def test_the_role_that_a_component_starts_can_be_scraped_too(component: str) -> None:
    assert set(exposed("weir-streams", f"{component}/weir-streams.yaml").values()) == served(**settings_of(component))


@pytest.mark.parametrize(
    ("name", "ports"),
    [
        ("weir-streams", [{"port": 9702, "endPort": 9702 + len(ROLES) - 1}, {"port": 9702 + PORTS["hubble"]}]),
        ("weir-web", [{"port": 9702 + PORTS["web"]}]),
    ],
)
def test_the_network_policy_admits_scrapes_of_every_role_and_nothing_else(
    name: str, ports: list[dict[str, int]]
) -> None:
    [workload] = [one for one in objects(f"{name}.yaml") if one["kind"] == "Deployment"]
    labels = workload["spec"]["template"]["metadata"]["labels"]
    [policy] = [
        one for one in objects("components/metrics-policy/network-policy.yaml")
        if one["spec"]["podSelector"]["matchLabels"] == labels
    ]  # fmt: skip
    [rule] = policy["spec"]["ingress"]
    assert rule["ports"] == ports
    assert rule["from"]
    parsed = parse(policy)
    assert isinstance(parsed, NetworkPolicy)
    assert parsed.egress is None


@pytest.mark.parametrize(
    ("name", "patches"),
    [("weir-probe", ()), *(("weir-streams", (f"{one}/weir-streams.yaml",)) for one in (EVENTS, HUBBLE))],
)
def test_prometheus_does_not_drop_a_port_by_relabeling(name: str, patches: tuple[str, ...]) -> None:
    [scraped] = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    [kept] = [one["regex"] for one in scraped["relabel_configs"] if one.get("action") == "keep"]
    assert all(re.fullmatch(kept, f"{name};{port}") for port in exposed(name, *patches))


def test_labels_of_whom_a_metric_is_about_are_kept() -> None:
    """The alert about a closed pod and the dashboard of a namespace would otherwise name kubeweir's own."""
    [scraped] = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert scraped["honor_labels"] is True
    for file in ("kubernetes/components/monitoring/service-monitor.yaml", "examples/service-monitor.yaml"):
        [monitor] = [one for one in yaml.safe_load_all((DEPLOY / file).read_text()) if one["kind"] == "ServiceMonitor"]
        assert all(one["honorLabels"] is True for one in monitor["spec"]["endpoints"]), file


def test_the_component_hubble_has_room_to_sort_the_answers_of_all_its_clients() -> None:
    [patch, _] = objects(f"{HUBBLE}/weir-streams.yaml")
    [volume] = patch["spec"]["template"]["spec"]["volumes"]
    [workload] = objects("weir-streams.yaml")
    [mount] = [one for one in container(workload)["volumeMounts"] if one["name"] == volume["name"]]
    assert mount["mountPath"] == "/tmp"  # noqa: S108 - where Python makes temporary files
    assert volume["emptyDir"]["medium"] == "", "on disk, not within the container's memory"
    gib = int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi"))
    assert gib << 30 >= Settings().hubble_streams * MAX_SORTED_BYTES * 5 / 4
