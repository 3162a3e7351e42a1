"""Whom a front proxy signs in sees what a real API server lets that user and those groups see, over real TLS."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.authority import Authority
from tests.cluster.apiserver import TOKENS, ApiServer
from tests.cluster.test_page_access import GROUP, RBAC, bind
from tests.kafka.site import Site
from tests.waiting import until

pytestmark = pytest.mark.cluster

SHOP = "/api/policies?namespace=shop"


def test_a_proxys_user_has_the_rights_of_its_name_and_groups(api: ApiServer, tmp_path: Path) -> None:
    """Kafka is away, so that whoever may ask gets 503, and the others 401 or 403."""
    roles = {
        one["metadata"]["name"]: one for one in yaml.safe_load_all(RBAC.read_text()) if one["kind"] == "ClusterRole"
    }
    api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    for name in ("kubeweir-web", "kubeweir-flows-viewer"):
        api.create(f"{GROUP}/clusterroles", roles[name])
    bind(api, "kubeweir-web", "reader")
    bind(api, "kubeweir-flows-viewer", "ann", "shop")
    api.create(f"{GROUP}/clusterrolebindings", {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "ops"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kubeweir-flows-viewer"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "ops"}],
    })  # fmt: skip
    proxies, page = Authority(tmp_path / "proxies"), Authority(tmp_path / "page")
    certificate, key = page.sign("/CN=localhost", "serverAuth")
    site = Site("127.0.0.1:1", "nothing", tmp_path)
    web = site.start(
        "web", "--alone", WEIR_WEB="127.0.0.1:0", WEIR_CLUSTER="c1", WEIR_WEB_AUTH="kubernetes",
        WEIR_WEB_CERTIFICATE=str(certificate), WEIR_WEB_KEY=str(key), WEIR_WEB_PROXY_CA=str(proxies.file),
        WEIR_WEB_PROXY_NAMES="front-proxy", KUBECONFIG=str(api.kubeconfig("reader")),
    )  # fmt: skip
    try:
        port = int(web.wait_for("the page is served")["url"].rstrip("/").rpartition(":")[2])
        trusted, stranger = proxies.sign("/CN=front-proxy"), proxies.sign("/CN=stranger")

        def ask(path: str, files: tuple[Path, Path] | None, **headers: str) -> Any:
            context = ssl.create_default_context(cafile=str(page.file))
            if files is not None:
                context.load_cert_chain(*files)
            connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=240)
            with contextlib.closing(connection):
                connection.request(
                    "GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()}
                )
                answer = connection.getresponse()
                return answer.status, json.loads(answer.read())

        until(lambda: ask("/api/session", trusted, X_Remote_User="ann")[0] == 200)
        until(lambda: ask(SHOP, trusted, X_Remote_User="ann")[0] == 503)
        assert ask("/api/policies?namespace=bank", trusted, X_Remote_User="ann")[0] == 403
        assert ask("/api/health", trusted, X_Remote_User="ann")[0] == 403
        assert ask(SHOP, trusted, X_Remote_User="bob")[0] == 403
        assert ask(SHOP, trusted, X_Remote_User="bob", X_Remote_Group="dev, ops")[0] == 403
        assert ask("/api/health", trusted, X_Remote_User="bob", X_Remote_Group="ops")[0] == 503
        for files in (None, stranger):
            assert ask(SHOP, files, X_Remote_User="ann", X_Remote_Group="ops")[0] == 401
            # A token has its own rights, whatever else is sent.
            token = f"Bearer {TOKENS['reader']}"
            assert ask(SHOP, files, X_Remote_User="ann", X_Remote_Group="ops", Authorization=token)[0] == 403
        api.delete(f"{GROUP}/clusterrolebindings/ops")
        until(lambda: ask("/api/health", trusted, X_Remote_User="bob", X_Remote_Group="ops")[0] == 403)
    finally:
        site.end()
