"""Who may read the metrics port, as a real API server says it: TokenReview and SubjectAccessReview."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from enrich.runtime.token_gate import ALLOWED, FORBIDDEN, UNAUTHENTICATED, UNKNOWN
from enrich.sources.client import Client
from enrich.sources.token_review import reviewer
from tests.cluster.apiserver import TOKENS, ApiServer
from tests.waiting import until

pytestmark = pytest.mark.cluster

COMPONENT = Path(__file__).parents[2] / "deploy/kubernetes/components/metrics-tls/rbac.yaml"


def connect() -> Client:
    client = Client()
    client.connect()
    return client


def roles() -> list[dict[str, object]]:
    return [one for one in yaml.safe_load_all(COMPONENT.read_text()) if one["kind"] == "ClusterRole"]


def bind(api: ApiServer, role: str, user: str) -> None:
    api.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": f"{role}-{user}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    })  # fmt: skip


def test_rbac_says_who_may_read_metrics(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rights are those of the component: of services to ask, and of a scraper to read."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig("reader")))
    review = reviewer(connect)
    # Without the right to ask, no one may read.
    assert review(TOKENS["admin"], "/metrics") == UNKNOWN
    for role in roles():
        api.create("/apis/rbac.authorization.k8s.io/v1/clusterroles", role)
    bind(api, "kubeweir-metrics-review", "reader")
    until(lambda: review(TOKENS["admin"], "/metrics") == ALLOWED)
    assert review("made-up", "/metrics") == UNAUTHENTICATED
    assert review("", "/metrics") == UNAUTHENTICATED
    assert review("line\r\nbreak", "/metrics") == UNAUTHENTICATED
    assert review(TOKENS["reader"], "/metrics") == FORBIDDEN
    bind(api, "kubeweir-metrics-reader", "reader")
    until(lambda: review(TOKENS["reader"], "/metrics") == ALLOWED)
    assert review(TOKENS["reader"], "/readyz") == ALLOWED
    assert review(TOKENS["reader"], "/other") == FORBIDDEN
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig("reader", 1)))
    assert reviewer(connect)(TOKENS["admin"], "/metrics") == UNKNOWN
