"""A real kube-apiserver takes recommended policies."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from enrich.history.advice.manifest import document
from enrich.history.advice.permits import Style
from enrich.history.advice.recommend import recommend
from enrich.history.advice.traffic import traffic_of
from enrich.history.stand_ins import Known
from tests.cluster.apiserver import ApiServer
from tests.enrich.history.advice.shop import BACKUP, DB, DNS, INGRESS, PROFILES, UDP, WEB, WEB2, pair, view

pytestmark = pytest.mark.cluster

SEEN = [
    pair(WEB, "egress", DB, 5432),
    pair(WEB2, "egress", DB, 5432, "deny"),
    pair(WEB, "egress", DNS, 53, protocol=UDP),
    pair(WEB, "ingress", INGRESS, 8080),
    pair(WEB, "ingress", "node:n2", 8080),
    pair(WEB, "egress", "203.0.113.0/24", 443),
    pair(WEB, "egress", "203.0.113.7/32", 443, "deny"),
    pair(BACKUP, "egress", "2001:db8::1/128", 22),
]


@pytest.mark.parametrize("style", ["workload", "namespace"])
def test_the_server_takes_what_is_recommended(api: ApiServer, style: Style) -> None:
    known = Known(PROFILES, (ip_network("10.0.0.0/8"),))
    advice = recommend(view(), known, traffic_of(SEEN, PROFILES), style)
    policies = [policy for one in advice for policy in one.policies]
    assert policies
    for policy in policies:
        made = document(policy, audit=True)
        # The server of the tests has no namespace but its own.
        made["metadata"]["namespace"] = "default"
        api.create("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies?dryRun=All", made)
