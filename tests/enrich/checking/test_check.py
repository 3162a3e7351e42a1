"""What `weir check` finds, and what it does not say because files do not show it."""

from __future__ import annotations

from pathlib import Path

import pytest

from enrich.checking.check import check
from enrich.checking.finding import Finding
from enrich.sources.repository import read_repository

ROOT = Path(__file__).resolve().parents[3]
WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, tier: front}}
    spec: {containers: [{name: c, image: none, ports: [{name: http, containerPort: 8080}]}]}
"""
DB = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, image: none, ports: [{name: pg, containerPort: 5432}]}]}
"""
NAMESPACES = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: storefront}}
---
apiVersion: v1
kind: Namespace
metadata: {name: ops, labels: {team: platform}}
"""
_SYSTEM = "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}"
DNS = f"{{to: [{{{_SYSTEM}}}], ports: [{{port: 53, protocol: UDP}}]}}"
KAFKA = """
apiVersion: kafka.strimzi.io/v1
kind: Kafka
metadata: {name: k, namespace: shop}
spec: {kafka: {replicas: 3}}
"""


def policy(spec: str, name: str = "p", namespace: str = "shop") -> str:
    head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
    return f"\n{head}metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"


def found_in(folder: Path, *documents: str) -> list[Finding]:
    (folder / "all.yaml").write_text("---".join(documents))
    return check(read_repository([folder]))


def ids(findings: list[Finding]) -> list[str]:
    return [one.rule.id for one in findings]


def rule(folder: Path, ingress: str, *more: str) -> list[Finding]:
    """Return the findings about one ingress rule of the database."""
    return found_in(
        folder, WEB, DB, policy(f"{{podSelector: {{matchLabels: {{app: db}}}}, ingress: [{ingress}]}}"), *more
    )


def test_policies_that_fit_their_workloads_have_no_findings(tmp_path: Path) -> None:
    egress = f"{{podSelector: {{}}, policyTypes: [Egress], egress: [{DNS}, {{to: [{{podSelector: {{}}}}]}}]}}"
    good = "{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: pg}, {port: 5432}]}"
    assert rule(tmp_path, good, policy(egress, "egress")) == []


@pytest.mark.parametrize(
    ("spec", "text", "todo"),
    [
        ("{podSelector: {matchLabels: {app: wbe}}}", "no pod of namespace shop has app=wbe", "did you mean app=web?"),
        ("{podSelector: {matchLabels: {ap: web}}}", "has ap=web", "did you mean app?"),
        ("{podSelector: {matchLabels: {app: zzzzz}}}", "has app=zzzzz", "app is db or web there"),
        (
            "{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [web, db]}]}}",
            "no pod of namespace shop has",
            "app is db or web in each pod there",
        ),
        (
            "{podSelector: {matchExpressions: [{key: app, operator: DoesNotExist}]}}",
            "no pod of namespace shop has",
            "each pod there has the label app",
        ),
    ],
)
def test_a_policy_that_selects_nothing_says_what_is_near(tmp_path: Path, spec: str, text: str, todo: str) -> None:
    (found,) = found_in(tmp_path, WEB, DB, policy(spec))
    assert found.rule.id == "policy-selects-nothing"
    assert text in found.text
    assert todo in found.todo
    assert (found.place.document, found.place.line) == (3, 24)


def test_what_the_files_do_not_show_is_no_finding(tmp_path: Path) -> None:
    """Pods of another repository, of an operator, of an object with a mistake; labels that a controller gives."""
    nothing = policy("{podSelector: {matchLabels: {app: zzz}}}")
    assert found_in(tmp_path, nothing) == []
    assert found_in(tmp_path, WEB, KAFKA, nothing) == []
    assert ids(found_in(tmp_path, WEB, DB.replace("containers", "kontainers"), nothing)) == ["invalid", "unknown-field"]
    assert found_in(tmp_path, WEB, policy("{podSelector: {matchLabels: {pod-template-hash: abc}}}")) == []


@pytest.mark.parametrize(
    "chart",
    [
        "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: x, namespace: shop}\nspec: {}\n",
        "apiVersion: helm.cattle.io/v1\nkind: HelmChart\nmetadata: {name: x, namespace: kube-system}\n"
        "spec: {targetNamespace: shop}\n",
        "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: x, namespace: argocd}\n"
        "spec: {destination: {namespace: shop}, source: {chart: redis}}\n",
    ],
)
def test_a_chart_that_the_cluster_installs_may_have_any_pod(tmp_path: Path, chart: str) -> None:
    nothing = policy("{podSelector: {matchLabels: {app: redis}}}")
    assert found_in(tmp_path, WEB, f"\n{chart}", nothing) == []
    assert ids(found_in(tmp_path, WEB, f"\n{chart.replace('shop', 'ops')}", nothing)) == ["policy-selects-nothing"]


def test_an_application_of_a_repository_hides_nothing(tmp_path: Path) -> None:
    app = "\napiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: x}\n"
    app += "spec: {destination: {namespace: shop}, source: {path: manifests}}\n"
    nothing = policy("{podSelector: {matchLabels: {app: redis}}}")
    assert ids(found_in(tmp_path, WEB, app, nothing)) == ["policy-selects-nothing"]


def test_a_chart_in_the_folder_may_have_any_pod(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis/Chart.yaml").write_text("name: redis\n")
    found = found_in(tmp_path, WEB, policy("{podSelector: {matchLabels: {app: redis}}}"))
    assert ids(found) == ["not-rendered"]


def test_host_network_pods_are_selected_by_no_policy(tmp_path: Path) -> None:
    web = WEB.replace("spec: {containers", "spec: {hostNetwork: true, containers")
    (found,) = found_in(tmp_path, web, DB, policy("{podSelector: {matchLabels: {app: web}}}"))
    assert "host's network" in found.text


@pytest.mark.parametrize(
    ("peer", "text", "todo"),
    [
        ("podSelector: {matchLabels: {app: wbe}}", "no pod of namespace shop has app=wbe", "did you mean app=web?"),
        ("namespaceSelector: {matchLabels: {team: storefrnt}}", "no namespace in these files", "team is platform or"),
        ("namespaceSelector: {matchLabels: {taem: platform}}", "no namespace in these files", "the label team?"),
        (
            "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shopp}}",
            "no namespace in these files",
            "did you mean shop?",
        ),
        (
            "namespaceSelector: {matchLabels: {team: storefront}}, podSelector: {matchLabels: {app: api}}",
            "no pod of namespace shop has app=api",
            "app is db or web there",
        ),
    ],
)
def test_a_peer_that_matches_nothing(tmp_path: Path, peer: str, text: str, todo: str) -> None:
    (found,) = rule(tmp_path, f"{{from: [{{{peer}}}]}}", NAMESPACES)
    assert (found.rule.id, found.rule.level) == ("peer-matches-nothing", "warning")
    assert text in found.text
    assert todo in found.todo


@pytest.mark.parametrize(
    "peer",
    [
        "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}",
        "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {}",
        "namespaceSelector: {matchLabels: {istio: enabled}}",
        "ipBlock: {cidr: 10.0.0.0/8}",
    ],
)
def test_a_peer_outside_of_the_files_is_no_finding(tmp_path: Path, peer: str) -> None:
    assert rule(tmp_path, f"{{from: [{{{peer}}}]}}", NAMESPACES) == []


def test_a_missing_namespace_selector_is_named(tmp_path: Path) -> None:
    prom = WEB.replace("shop", "ops").replace("web", "prom")
    (found,) = rule(tmp_path, "{from: [{podSelector: {matchLabels: {app: prom}}}]}", prom)
    assert "add a namespaceSelector" in found.todo


@pytest.mark.parametrize(
    ("ports", "expected", "todo"),
    [
        ("{port: pgx}", "unknown-port-name", "did you mean pg?"),
        ("{port: web}", "unknown-port-name", "their ports are called pg"),
        ("{port: pg, protocol: UDP}", "unknown-port-name", "correct the protocol"),
        ("{port: 5433}", "undeclared-port", "they declare 5432/TCP"),
        ("{port: 5432, protocol: UDP}", "undeclared-port", "they declare 5432/TCP"),
    ],
)
def test_a_port_that_no_container_has(tmp_path: Path, ports: str, expected: str, todo: str) -> None:
    (found,) = rule(tmp_path, f"{{ports: [{ports}]}}")
    assert found.rule.id == expected
    assert todo in found.todo


def test_a_range_and_undeclared_ports_are_no_findings(tmp_path: Path) -> None:
    assert rule(tmp_path, "{ports: [{port: 5000, endPort: 6000}]}") == []
    nothing_declared = DB.replace(", ports: [{name: pg, containerPort: 5432}]", "")
    ingress = policy("{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 1}]}]}")
    assert found_in(tmp_path, WEB, nothing_declared, ingress) == []


def test_egress_ports_are_those_of_the_peers(tmp_path: Path) -> None:
    to_db = "{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: http}]}"
    spec = f"{{podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Egress], egress: [{DNS}, {to_db}]}}"
    (found,) = found_in(tmp_path, WEB, DB, policy(spec))
    assert found.rule.id == "unknown-port-name"
    assert found.text.startswith("spec.egress[1].ports[0]: no container of StatefulSet shop/db")


@pytest.mark.parametrize(
    ("egress", "expected"),
    [
        ("[]", ["closed-without-dns"]),
        ("[{to: [{podSelector: {}}]}]", ["egress-without-dns"]),
        # The mistake that is made most: the servers of DNS are in another namespace.
        ("[{to: [{podSelector: {}}], ports: [{port: 53, protocol: UDP}]}]", ["egress-without-dns"]),
        ("[{to: [{podSelector: {}}]}, {ports: [{port: 53}]}]", ["egress-without-dns"]),
        (f"[{{to: [{{podSelector: {{}}}}]}}, {DNS}]", []),
        ("[{ports: [{port: 53, protocol: UDP}]}]", []),
        ("[{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]", []),
        ("[{to: [{ipBlock: {cidr: 169.254.20.10/32}}], ports: [{port: 53, protocol: UDP}]}]", []),
        ("[{to: [{namespaceSelector: {}}]}]", []),
        # OpenShift's servers, and a label of kube-system and a block of Services that no file has.
        ("[{to: [{namespaceSelector: {matchLabels: {any: label}}}], ports: [{port: 5353, protocol: UDP}]}]", []),
        ("[{to: [{namespaceSelector: {matchLabels: {any: label}}}], ports: [{port: dns, protocol: UDP}]}]", []),
        (
            "[{to: [{namespaceSelector: {matchLabels: {name: kube-system}}, "
            "podSelector: {matchLabels: {k8s-app: kube-dns}}}]}]",
            [],
        ),
        ("[{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}]", []),
        ("[{to: [{ipBlock: {cidr: 'fd00:1::/48'}}]}]", []),
        ("[{to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{protocol: UDP}]}]", []),
        ("[{to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 53}]}]", ["egress-without-dns"]),
        ("[{to: [{ipBlock: {cidr: 10.1.2.3/32}}]}]", ["egress-without-dns"]),
        ("[{to: [{namespaceSelector: {matchLabels: {any: label}}}]}]", ["egress-without-dns"]),
        ("[{to: [{podSelector: {matchLabels: {k8s-app: kube-dns}}}]}]", ["egress-without-dns"]),
        ("[{to: [{namespaceSelector: {matchLabels: {any: label}}}], ports: [{port: 53, protocol: UDP}]}]", []),
    ],
)
def test_egress_needs_dns(tmp_path: Path, egress: str, expected: list[str]) -> None:
    spec = f"{{podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Egress], egress: {egress}}}"
    found = found_in(tmp_path, WEB, policy(spec))
    assert [one for one in ids(found) if "dns" in one] == expected
    # Without the workload, the policy itself says whom it is about.
    assert [one for one in ids(found_in(tmp_path, policy(spec))) if "dns" in one] == expected


def test_another_policy_may_allow_dns_and_an_audited_one_closes_nothing(tmp_path: Path) -> None:
    closed = policy("{podSelector: {}, policyTypes: [Egress]}", "closed")
    dns = policy(f"{{podSelector: {{}}, policyTypes: [Egress], egress: [{DNS}]}}", "dns")
    assert found_in(tmp_path, WEB, closed, dns) == []
    audited = closed.replace("namespace: shop}", "namespace: shop, annotations: {kubeweir.io/mode: audit}}")
    assert found_in(tmp_path, WEB, audited) == []


def test_an_administrators_rule_may_allow_dns(tmp_path: Path) -> None:
    closed = policy("{podSelector: {}, policyTypes: [Egress]}", "closed")
    admin = """
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: dns}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress:
  - {action: Accept, to: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]}
"""
    assert found_in(tmp_path, WEB, closed, admin) == []


def test_rules_without_effect_name_the_rule_that_decides(tmp_path: Path) -> None:
    wide = "{from: [{podSelector: {}}]}"
    narrow = "{from: [{podSelector: {matchLabels: {app: web}}}]}"
    (found,) = rule(tmp_path, f"{wide}, {narrow}")
    assert found.rule.id == "redundant-rule"
    assert found.text.startswith("spec.ingress[1]: rule 0 of shop/p (")
    admin = """
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  ingress:
  - {action: Accept, from: [{namespaces: {}}]}
  - {action: Deny, from: [{namespaces: {matchLabels: {team: x}}}]}
"""
    (found,) = found_in(tmp_path, WEB, admin)
    assert (found.rule.id, found.subject) == ("shadowed-rule", "ClusterNetworkPolicy guard")
    assert "always decides before" in found.text


def test_services_and_templates_are_compared_with_labels(tmp_path: Path) -> None:
    service = "\napiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: shop}\nspec: {selector: {app: wbe}}\n"
    assert ids(found_in(tmp_path, WEB, service)) == ["service-selects-nothing"]
    (found,) = found_in(tmp_path, WEB.replace("matchLabels: {app: web}", "matchLabels: {app: api}"))
    assert (found.rule.id, found.place.line) == ("template-selector", 6)


def test_the_projects_own_manifests() -> None:
    """They are ordinary files: a kustomization with components, and a chart beside it."""
    found = check(read_repository([ROOT / "deploy/kubernetes", ROOT / "deploy/helm"]))
    assert {one.rule.id for one in found} == {"not-rendered"}
    assert any("helm template" in one.todo for one in found)
    assert any("kustomize build" in one.todo for one in found)
    demo = check(read_repository([ROOT / "deploy/examples/demo"]))
    assert {one.rule.id for one in demo} == {"egress-without-dns"}, "its pods know one another by address"
