"""The YAML of recommended policies."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
import yaml

from enrich.history.advice.proof import Proof, prove
from enrich.history.advice.recommend import Advice, recommend
from enrich.history.advice.traffic import Evidence, Question, Traffic, traffic_of
from enrich.history.profile import number_of
from enrich.history.stand_ins import Known
from enrich.wire.batch import Reason
from enrich.wire.pair import HOUR_NS, Pair
from streams.cli.recommend_command import _exit_code
from streams.cli.recommended_text import Frame, UnfaithfulError, as_yaml, proof_lines, read_back
from tests.enrich.history.advice.shop import (
    BACKUP,
    DB,
    DNS,
    HOUR,
    INGRESS,
    PROFILES,
    UDP,
    WEB,
    WEB2,
    pair,
    profile,
    view,
)


def written(*pairs: Pair, more: Any = (), audit: bool = False) -> tuple[str, Advice, Traffic]:
    known = Known({**PROFILES, **{number_of(one): one for one in more}}, (ip_network("10.0.0.0/8"),))
    seen = traffic_of(pairs, known.profiles)
    (advice,) = recommend(view(), known, seen, "workload")
    proof = prove(view(), known, seen, [one.policy() for one in advice.policies], [advice.namespace])
    frame = Frame("c1", (HOUR - 1) * HOUR_NS, (HOUR + 1) * HOUR_NS, known.profiles, audit)
    return as_yaml(advice, seen, proof, frame), advice, seen


def test_the_whole_file() -> None:
    text, _, _ = written(
        pair(WEB, "egress", DB, 5432, service="shop/db"),
        pair(WEB2, "egress", DB, 5432),
        pair(WEB, "egress", DNS, 53, protocol=UDP),
        pair(WEB, "egress", "198.51.100.0/24", 443, connections=1),
        pair(WEB, "ingress", INGRESS, 8080, connections=1000),
        pair(WEB, "ingress", "node:n1", 8080, reason=Reason.NODE),
        pair(WEB, "egress", BACKUP, 22, "deny"),
        pair(WEB, "egress", "?", 80),
    )
    assert (
        text
        == """\
# NetworkPolicies for namespace shop of cluster c1, recommended by weir from what was seen from 2024-10-03T23:00:00Z
#   to 2024-10-04T01:00:00Z
# proof: allows 100 % of the observed allows: 1,041 connections (6 distinct); would deny 0 connections (0)
# proof: allows none of the observed denies: 10 packets (1 distinct) stay denied
# no rule is needed for 10 connections: a pod's own node (probes of the kubelet), itself, or what a policy of the
#   Admin tier accepts
# left out (denied by policy): 1 distinct
#   shop Deployment/web -> shop CronJob/backup, 22/TCP: 10 connections, 2024-10-04T00:00:00Z to 2024-10-04T00:59:59Z
# left out (the other end is not known for certain): 1 distinct
#   shop Deployment/web -> an end that is not known for certain, 80/TCP: 10 connections, 2024-10-04T00:00:00Z to
#     2024-10-04T00:59:59Z
---
# for Deployment/web
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: seen-web
  namespace: shop
spec:
  podSelector:
    matchLabels:
      app: web
  policyTypes:
  - Ingress
  - Egress
  ingress:
  # from edge DaemonSet/ingress: 1,000 connections, 2024-10-04T00:00:00Z to 2024-10-04T00:59:59Z
  - from:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: edge
      podSelector:
        matchLabels:
          app.kubernetes.io/name: ingress
    ports:
    - protocol: TCP
      port: http
  egress:
  # to kube-system Deployment/coredns: 10 connections, 2024-10-04T00:00:00Z to 2024-10-04T00:59:59Z
  - to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: kube-system
      podSelector:
        matchLabels:
          k8s-app: kube-dns
    ports:
    - protocol: TCP
      port: 53
    - protocol: UDP
      port: 53
  # to 198.51.100.0/24 (coarse: it stands for further addresses): 1 connection, 2024-10-04T00:00:00Z to
  #   2024-10-04T00:59:59Z
  - to:
    - ipBlock:
        cidr: 198.51.100.0/24
    ports:
    - protocol: TCP
      port: 443
  # to shop StatefulSet/db: 20 connections, 2024-10-04T00:00:00Z to 2024-10-04T00:59:59Z, 2 profiles, dialled as
  #   Service shop/db
  - to:
    - podSelector:
        matchLabels:
          app: db
    ports:
    - protocol: TCP
      port: postgres
"""
    )


def test_what_is_printed_is_what_was_proven() -> None:
    text, advice, _ = written(pair(WEB, "egress", DB, 5432))
    assert [one.name for one in read_back(text, advice, audit=False)] == ["seen-web"]
    with pytest.raises(UnfaithfulError, match="is not what was recommended"):
        read_back(text.replace("postgres", "mysql"), advice, audit=False)
    with pytest.raises(UnfaithfulError, match="refuses"):
        read_back(text.replace("podSelector", "podselector"), advice, audit=False)


def test_audited_policies_say_so() -> None:
    text, advice, _ = written(pair(WEB, "egress", DB, 5432), audit=True)
    assert yaml.safe_load(text)["metadata"]["annotations"] == {"kubeweir.io/mode": "audit"}
    assert all(policy.audit for policy in read_back(text, advice, audit=True))


@pytest.mark.parametrize("end", ["\n", "\r", "\x85", "\u2028", "\u2029", "\0", "\x1b[2J"])
def test_no_name_ends_a_comment(end: str) -> None:
    hostile = profile("shop", f"Deployment/x{end}---{end}kind: ClusterRole", {"app": "x"})
    text, advice, _ = written(
        pair(WEB, "egress", hostile, 80, service=f"shop/y{end}---"), pair(hostile, "egress", WEB, 80), more=[hostile]
    )
    assert len(read_back(text, advice, audit=False)) == 2
    assert text.isascii()
    assert all(one == "\n" or one.isprintable() for one in text)


@pytest.mark.parametrize("value", ["true", "null", "1e3", "0x10", "2024-10-04", "yes", "1_000", ""])
def test_a_label_that_yaml_would_take_for_something_else_stays_a_text(value: str) -> None:
    odd = profile("shop", "Deployment/odd", {"app": value})
    text, advice, _ = written(pair(odd, "egress", DB, 80), more=[odd])
    assert read_back(text, advice, audit=False)[0].pods == advice.policies[0].scope.selector


def test_long_lists_are_cut_in_comments_only() -> None:
    blocks = [f"203.0.{number}.1/32" for number in range(30)]
    text, advice, _ = written(*(pair(WEB, "egress", block, 443) for block in blocks))
    assert "# to 10 more: 100 connections" in text
    assert len(read_back(text, advice, audit=False)[0].egress[0].peers) == 30  # type: ignore[index]


def test_a_proof_that_cannot_say_of_everything_is_no_proof() -> None:
    seen = {Question(pair(WEB, "egress", DB, 5432).key): Evidence(1)}
    proven, broken = Proof(seen, {}, {}, {}, {}), Proof({}, seen, {}, {}, {})
    unclear = Proof(seen, {}, {}, {}, seen)
    assert [_exit_code(proofs) for proofs in ([proven], [proven, unclear], [unclear, broken])] == [0, 3, 1]
    assert "of the observed allows that can be judged: 1 connection" in next(iter(proof_lines(unclear, PROFILES)))
