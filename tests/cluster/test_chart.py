"""Chart and kustomize render the same objects, a real API server takes them, and rights follow the namespace."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.apiserver import ApiServer
from tests.cluster.rendering import (
    CHART,
    MANIFESTS,
    ROOT,
    built,
    differences,
    folder_with_components,
    kustomize,
    run_helm,
    sorted_lists,
    template,
    with_components,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

EXAMPLE = ROOT / "deploy/examples"
OPERATOR = "--api-versions=monitoring.coreos.com/v1"
PART_OF = "app.kubernetes.io/part-of=kubeweir"
CASES: dict[str, tuple[str, ...]] = {
    "autoscaling": ("--set=streams.autoscaling.enabled=true",),
    "critical-quota": ("--set=criticalQuota=true",),
    "disruption-budget": ("--set=streams.disruptionBudget=true",),
    "events": ("--set=events=true",),
    "hubble": ("--set=hubble=true",),
    "k3s": (
        "--set=cni.programs=/var/lib/rancher/k3s/data/cni",
        "--set=cni.configuration=/var/lib/rancher/k3s/agent/etc/cni/net.d",
    ),
    "metrics-policy": ("--set=networkPolicy.enabled=true",),
    "metrics-tls": ("--set=metricsTls=true",),
    "monitoring": (OPERATOR,),
    "network-logging": ("--set=networkLogging.crd=true",),
    "prune-guard": ("--set=pruneGuard=true",),
    "startup-taint": ("--set=startupTaint=kubeweir.io/not-ready",),
    "topology-spread": ("--set=streams.topologySpread=true",),
    "without-cni": ("--set=cni.enabled=false",),
    "without-web": ("--set=web.enabled=false",),
}
"""Each component, and the values of the chart that do the same."""


@pytest.fixture(scope="module")
def kubectl() -> Path:
    return built("cluster", "kubectl")


@pytest.fixture(scope="module")
def helm() -> Path:
    return built("helm", "helm")


def test_every_component_has_its_values() -> None:
    assert set(CASES) == {one.name for one in (MANIFESTS / "components").iterdir()}


def test_the_chart_renders_the_objects_of_the_manifests(kubectl: Path, helm: Path) -> None:
    found = kustomize(kubectl, MANIFESTS)
    assert len(found) > 15
    assert differences(found, template(helm)) == {}


@pytest.mark.parametrize("component", CASES)
def test_the_values_of_a_component_render_its_objects(
    component: str, kubectl: Path, helm: Path, tmp_path: Path
) -> None:
    found = with_components(kubectl, tmp_path, [component])
    assert differences(found, template(helm, *CASES[component])) == {}
    assert differences(found, template(helm)), "the component changes nothing"


def test_all_components_together_are_all_values_together(kubectl: Path, helm: Path, tmp_path: Path) -> None:
    together = [one for one in CASES if one not in {"monitoring", "without-cni", "without-web"}]
    found = with_components(kubectl, tmp_path, together)
    assert differences(found, template(helm, *(value for one in together for value in CASES[one]))) == {}


def test_ports_with_tls_are_scraped_by_https_and_the_wrong_order_of_components_is_refused(
    kubectl: Path, helm: Path, tmp_path: Path
) -> None:
    both = ["monitoring", "metrics-tls"]
    found = with_components(kubectl, tmp_path, both)
    assert differences(found, template(helm, *(value for one in both for value in CASES[one]))) == {}
    folder = folder_with_components(tmp_path, both[::-1])
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "list components-monitoring before components-metrics-tls" in done.stderr


def test_the_example_overlay_and_the_example_values_are_the_same(kubectl: Path, helm: Path) -> None:
    """Namespace and image, which each names in one place, are everywhere."""
    found = kustomize(kubectl, EXAMPLE / "overlay")
    assert differences(found, template(helm, "-f", EXAMPLE / "values.yaml", namespace="network-policy")) == {}
    text = json.dumps(list(found.values()))
    assert '"namespace": "kubeweir"' not in text
    assert '"image": "localhost/' not in text
    detach = kustomize(kubectl, EXAMPLE / "overlay/detach")
    helms = template(helm, "-f", EXAMPLE / "values.yaml", "--set=detach=true", namespace="kube-system")
    assert differences(detach, helms) == {}
    assert '"image": "localhost/' not in json.dumps(list(detach.values()))


def test_what_detaches_is_the_same(kubectl: Path, helm: Path) -> None:
    found = kustomize(kubectl, MANIFESTS / "detach")
    assert differences(found, template(helm, "--set=detach=true", namespace="kube-system")) == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("images.tag=1", "images"),
        ("settings.WEIR_KAFAK=kafka:9092", "WEIR_KAFAK"),
        ("settings.WEIR_METRICS=127.0.0.1:9701", "WEIR_METRICS"),
        ("image.digest=sha256:12", "digest"),
        ("image.repository=registry:5000/kubeweir:latest", "repository"),
        ("alertmanagers={http://one:9093\\,http://two:9093}", "alertmanagers"),
        ("kafka.protocol=tls", "protocol"),
        ("streams.replicas=two", "replicas"),
        ("kafka.secret=x: {y", "secret"),
    ],
)
def test_wrong_values_are_refused(values: str, message: str, helm: Path) -> None:
    done = run_helm(helm, "template", "kubeweir", CHART, "--set", values)
    assert done.returncode != 0
    assert message in done.stderr


def test_a_registry_may_have_a_port(helm: Path) -> None:
    found = template(helm, "--set=image.repository=registry:5000/security/kubeweir,image.tag=latest")
    [container] = found["Deployment", "kubeweir", "weir-web"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry:5000/security/kubeweir:latest"


def test_a_large_number_in_a_file_of_values_stays_a_number(helm: Path, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("settings: {WEIR_CONNECTIONS: 4000000, WEIR_ENDS: true, WEIR_DENY_WINDOW: 2.5}\n")
    [made] = [one for (_, _, name), one in template(helm, "-f", file).items() if name.startswith("kubeweir-settings-")]
    assert {name: made["data"][name] for name in ("WEIR_CONNECTIONS", "WEIR_ENDS", "WEIR_DENY_WINDOW")} == {
        "WEIR_CONNECTIONS": "4000000", "WEIR_ENDS": "true", "WEIR_DENY_WINDOW": "2.5",
    }  # fmt: skip


def test_a_name_of_digits_stays_a_name_and_a_large_number_a_number(helm: Path, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(
        "image: {pullSecrets: ['7']}\nkafka: {secret: '5'}\nprobe: {priorityClassName: '8', maxUnavailable: 1000000}\n"
        "streams: {autoscaling: {enabled: true, minReplicas: 1000000, maxReplicas: 2000000}}\n"
    )
    values = "-f", file, "--set=criticalQuota=true,networkPolicy.enabled=true", OPERATOR
    found = template(helm, *values, namespace="1234")
    assert {namespace for _, namespace, _ in found} == {"", "1234"}
    assert ("Namespace", "", "1234") in found
    probe = found["DaemonSet", "1234", "weir-probe"]["spec"]
    pod = probe["template"]["spec"]
    secrets = [one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one]
    assert (pod["imagePullSecrets"], pod["priorityClassName"], secrets) == ([{"name": "7"}], "8", ["5"])
    assert probe["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1_000_000}
    scaler = found["HorizontalPodAutoscaler", "1234", "weir-streams"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (1_000_000, 2_000_000)


def test_the_chart_passes_helms_own_check(helm: Path) -> None:
    done = run_helm(helm, "lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout


def test_the_kinds_of_the_operator_are_rendered_only_where_they_are(helm: Path) -> None:
    kinds = {"ServiceMonitor", "PrometheusRule"}
    assert {kind for kind, _, _ in template(helm)} & kinds == set()
    assert {kind for kind, _, _ in template(helm, OPERATOR, "--set=monitoring=off")} & kinds == set()
    found = template(helm, "--set=monitoring=on")
    assert {kind for kind, _, _ in found} >= kinds
    rules = yaml.safe_load((ROOT / "deploy/prometheus/kubeweir.rules.yml").read_text())
    assert found["PrometheusRule", "kubeweir", "kubeweir"]["spec"] == sorted_lists(rules)


def test_the_example_of_a_monitor_by_tls_is_that_of_the_chart(helm: Path) -> None:
    [example] = [
        one
        for one in yaml.safe_load_all((EXAMPLE / "service-monitor.yaml").read_text())
        if one["kind"] == "ServiceMonitor"
    ]
    monitor = template(helm, OPERATOR, "--set=metricsTls=true")["ServiceMonitor", "kubeweir", "kubeweir"]
    ports = {one["port"]: one for one in example["spec"]["endpoints"]}
    assert ports == {one["port"]: one for one in monitor["spec"]["endpoints"]}
    assert example["spec"]["selector"] == monitor["spec"]["selector"]


@pytest.mark.parametrize(("value", "rendered"), [("on", True), ("off", False), ("'on'", True), ("auto", True)])
def test_monitoring_is_switched_in_a_file_of_values(value: str, rendered: bool, helm: Path, tmp_path: Path) -> None:
    """YAML reads on and off as true and false, if they have no quotes."""
    file = tmp_path / "values.yaml"
    file.write_text(f"monitoring: {value}\n")
    assert (("ServiceMonitor", "kubeweir", "kubeweir") in template(helm, "-f", file, OPERATOR)) is rendered


def allowed(api: ApiServer, user: str, namespace: str, what: str) -> bool:
    """Return whether RBAC gives an account of a namespace a right: ``verb group/resource [namespace [name]]``."""
    verb, resource, *where = what.split()
    group, _, kind = resource.rpartition("/")
    attributes = dict(zip(("namespace", "name"), where, strict=False))
    review = {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{namespace}:{user}",
            "resourceAttributes": {"verb": verb, "group": group, "resource": kind, **attributes},
        },
    }  # fmt: skip
    answer: dict[str, Any] = api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def apply(kubectl: Path, api: ApiServer, *arguments: str | Path, text: str | None = None) -> None:
    command = [kubectl, f"--kubeconfig={api.kubeconfig('admin')}", "apply", "--validate=strict", *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_overlay_with_another_namespace_has_its_rights(kubectl: Path, api: ApiServer, tmp_path: Path) -> None:
    """Also one that does not use the example's file for the place: its own line `namespace:` is enough."""
    relative = Path("../" * len(tmp_path.parts)) / str(MANIFESTS).lstrip("/")
    (tmp_path / "kustomization.yaml").write_text(
        f"namespace: elsewhere\nresources: [{relative}]\n"
        f"components: [{relative}/components/events, {relative}/components/metrics-tls]\n"
    )
    apply(kubectl, api, "-k", tmp_path)
    for user, what in (
        ("weir-probe", "list pods"),
        ("weir-probe", "watch apps/daemonsets elsewhere weir-probe"),
        ("weir-probe", "get namespaces elsewhere elsewhere"),
        ("weir-probe", "create authentication.k8s.io/tokenreviews"),
        ("weir-streams", "watch apps/replicasets"),
        ("weir-streams", "create events shop"),
        ("weir-web", "create authorization.k8s.io/subjectaccessreviews"),
    ):
        assert allowed(api, user, "elsewhere", what), (user, what)
        assert not allowed(api, user, "kubeweir", what), (user, what)
    assert not allowed(api, "weir-probe", "elsewhere", "get namespaces default default")


def test_a_real_api_server_takes_every_object(kubectl: Path, helm: Path, api: ApiServer) -> None:
    values = [value for one, given in CASES.items() if not one.startswith(("without", "monitoring")) for value in given]
    done = run_helm(helm, "template", "kubeweir", CHART, "-n", "dry", *values)
    assert done.returncode == 0, done.stderr
    api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "dry"}})
    apply(kubectl, api, "--server-side", "--dry-run=server", "-f", "-", text=done.stdout)
    detach = run_helm(helm, "template", "kubeweir", CHART, "-n", "dry", "--set=detach=true")
    apply(kubectl, api, "--server-side", "--dry-run=server", "-f", "-", text=detach.stdout)


def test_install_upgrade_rollback_and_uninstall_leave_nothing(kubectl: Path, helm: Path, api: ApiServer) -> None:
    config, where = api.kubeconfig("admin"), ["-n", "by-helm"]

    def run(*arguments: str | Path) -> str:
        done = run_helm(helm, *arguments, *where, config=config)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ours() -> set[str]:
        kinds = "ds,deploy,svc,cm,sa,role,rolebinding,clusterrole,clusterrolebinding,pdb,netpol,quota"
        labels = f"{PART_OF},app.kubernetes.io/managed-by=Helm"
        command: list[str | Path] = [kubectl, f"--kubeconfig={config}", "get", "-A", "-o=name", f"-l={labels}", kinds]
        return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())

    def settings() -> set[str]:
        return {one for one in ours() if one.startswith("configmap/kubeweir-settings-")}

    for path in ("clusterroles", "clusterrolebindings"):
        for one in api.get(f"/apis/rbac.authorization.k8s.io/v1/{path}?labelSelector={PART_OF}")["items"]:
            api.delete(f"/apis/rbac.authorization.k8s.io/v1/{path}/{one['metadata']['name']}")
    values = "--set=streams.disruptionBudget=true,networkPolicy.enabled=true"
    label = "pod-security.kubernetes.io/enforce=privileged"
    said = run("install", "kubeweir", CHART, "--create-namespace", values)
    assert f"kubectl label namespace by-helm {label}" in said
    first = settings()
    assert len(first) == 1
    assert allowed(api, "weir-probe", "by-helm", "list pods")
    labelled: list[str | Path] = [kubectl, f"--kubeconfig={config}", "label", "namespace", "by-helm", label]
    subprocess.run(labelled, check=True, capture_output=True)
    assert label not in run("upgrade", "kubeweir", CHART, "--set=settings.WEIR_ENDS=1")
    assert len(settings()) == 1
    assert settings() != first
    assert "poddisruptionbudget.policy/weir-streams" not in ours()
    run("rollback", "kubeweir", "1")
    assert settings() == first
    run("uninstall", "kubeweir")
    assert ours() == set()
    assert not allowed(api, "weir-probe", "by-helm", "list pods")
