"""Which records a token shows on the page, as a real API server says it: TokenReview and SubjectAccessReview."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from enrich.runtime.token_gate import ALLOWED, FORBIDDEN, UNAUTHENTICATED, UNKNOWN, TokenGate
from enrich.sources.client import Client
from enrich.sources.token_review import flows_reviewer
from streams.web.viewers import TokenViewer, sees, sees_both
from tests.cluster.apiserver import TOKENS, ApiServer
from tests.streams.web.records import make_flow
from tests.waiting import until

pytestmark = pytest.mark.cluster

RBAC = Path(__file__).parents[2] / "deploy/kubernetes/rbac.yaml"
GROUP = "/apis/rbac.authorization.k8s.io/v1"


def connect() -> Client:
    client = Client()
    client.connect()
    return client


def bind(api: ApiServer, role: str, user: str, namespace: str = "") -> str:
    """Bind a ClusterRole, in a namespace or everywhere; return the path of the binding."""
    kind = "RoleBinding" if namespace else "ClusterRoleBinding"
    where = f"{GROUP}/namespaces/{namespace}/rolebindings" if namespace else f"{GROUP}/clusterrolebindings"
    name = f"{role}-{user}"
    api.create(where, {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    })  # fmt: skip
    return f"{where}/{name}"


def test_rbac_says_which_records_a_token_shows(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rights are those of the manifests: of the page to ask, and of people to see."""
    for name in ("shop", "bank"):
        api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    roles = {
        one["metadata"]["name"]: one for one in yaml.safe_load_all(RBAC.read_text()) if one["kind"] == "ClusterRole"
    }
    for name in ("kubeweir-web", "kubeweir-flows-viewer"):
        api.create(f"{GROUP}/clusterroles", roles[name])
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig("reader")))
    review = flows_reviewer(connect)
    # Without the right to ask, no one sees anything.
    assert review(TOKENS["admin"], "shop") == UNKNOWN
    bind(api, "kubeweir-web", "reader")
    until(lambda: review(TOKENS["admin"], "") == ALLOWED)
    assert review("made-up", "shop") == UNAUTHENTICATED
    assert review(TOKENS["reader"], "shop") == FORBIDDEN
    binding = bind(api, "kubeweir-flows-viewer", "reader", "shop")
    until(lambda: review(TOKENS["reader"], "shop") == ALLOWED)
    assert review(TOKENS["reader"], "bank") == review(TOKENS["reader"], "") == FORBIDDEN

    now = [0.0]
    viewer = TokenViewer(TokenGate(review, lambda: now[0]), TOKENS["reader"], "")
    until(lambda: viewer.status() == ALLOWED)
    until(lambda: sees(viewer, make_flow(source="bank", destination="shop")) is True)
    until(lambda: sees_both(viewer, make_flow(source="bank", destination="shop")) is False)
    until(lambda: sees(viewer, make_flow(source="bank", destination="")) is False)
    api.delete(binding)
    until(lambda: review(TOKENS["reader"], "shop") == FORBIDDEN)
    now[0] += 61
    until(lambda: sees(viewer, make_flow(source="bank", destination="shop")) is False)
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig("reader", 1)))
    assert flows_reviewer(connect)(TOKENS["admin"], "shop") == UNKNOWN
