"""A recommendation for the shop of the demo: what its policies allow and deny, made again from its traffic."""

from __future__ import annotations

import runpy
from ipaddress import ip_network
from pathlib import Path

from enrich.history.advice.proof import prove
from enrich.history.advice.recommend import recommend
from enrich.history.advice.traffic import LeftOut, traffic_of
from enrich.history.profile import number_of, profile_of
from enrich.history.stand_ins import Known
from enrich.index.cluster import Cluster, group_by_kind
from enrich.sources.manifest_files import read_folder
from enrich.wire.pair import Pair
from tests.enrich.history.advice.shop import ICMP, TCP, UDP, pair

_ROOT = Path(__file__).parents[4]
_DEMO = runpy.run_path(str(_ROOT / "deploy/local/demo/pods.py"))
ADDRESSES, ATTEMPTS, POD_NAMES = _DEMO["ADDRESSES"], _DEMO["ATTEMPTS"], _DEMO["POD_NAMES"]
_PROTOCOLS = {"tcp": TCP, "udp": UDP, "icmp": ICMP}


def test_the_traffic_of_the_demo_gives_policies_that_decide_as_its_own_do() -> None:
    cluster = Cluster()
    cluster.replace_all(group_by_kind(read_folder(_ROOT / "deploy/examples/demo")))
    view = cluster.snapshot()
    pods = {str(pod.key): profile_of(pod, cluster.workload_of(pod)) for pod in view.pods.values()}
    pairs: list[Pair] = []
    for one in ATTEMPTS:
        source, destination = (
            pods[POD_NAMES[name]] if name in POD_NAMES else f"{ADDRESSES[name][0]}/32"
            for name in (one.source, one.destination)
        )
        protocol = _PROTOCOLS[one.protocol]
        # Of a connection that was denied, the end that denied it says so, and the demo's table does not say which end.
        denying = [policy.partition("/")[0] for policy in one.policies]
        if not isinstance(source, str) and (one.allowed or source.namespace in denying):
            verdict = "allow" if one.allowed else "deny"
            pairs.append(pair(source, "egress", destination, one.port, verdict, protocol=protocol))  # type: ignore[arg-type]
        elif not isinstance(destination, str):
            verdict = "allow" if one.allowed else "deny"
            pairs.append(pair(destination, "ingress", source, one.port, verdict, protocol=protocol))  # type: ignore[arg-type]
    known = Known({number_of(one): one for one in pods.values()}, (ip_network("10.244.0.0/16"),))
    seen = traffic_of(pairs, known.profiles)
    assert len(seen.allowed) + len(seen.denied) == len(ATTEMPTS)
    advice = recommend(view, known, seen, "workload")
    policies = [policy.policy() for one in advice for policy in one.policies]
    proof = prove(view, known, seen, policies, {one.namespace for one in advice})
    assert not proof.opened
    assert not proof.unclear
    # The database pings, which no NetworkPolicy can name.
    assert [why for one in advice for why, _ in one.unable] == [LeftOut.PORTLESS]
    assert {question.protocol for question in proof.broken} == {ICMP}
