"""Deciding once for each class of records gives what the matcher says record by record, for any verdicts and routes."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enrich.render.enricher import Enricher
from enrich.render.merged_batch import merge
from enrich.wire.flow import decode_flow
from streams.matching.matcher import Matcher
from streams.routes.check import check
from streams.routes.classifier import Classifier
from streams.routes.model import Routes
from tests.enrich.flows import make_batch, make_cluster

OUTPUTS: list[dict[str, Any]] = [{"stdout": {}}]


def words(*choices: Any) -> st.SearchStrategy[Any]:
    return st.one_of(st.sampled_from(choices), st.lists(st.sampled_from(choices), max_size=2))


def fields(most: int, **strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.lists(st.sampled_from(sorted(strategies)), min_size=1, max_size=most, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: strategies[name] for name in chosen}))


ends = fields(
    2,
    cidr=words("10.0.0.1/32", "10.0.0.0/8", "fd00::/8", "203.0.113.0/24", "0.0.0.0/0", "::/0"),
    namespace=words("shop", "s*", "gone", "kube-system"),
    pod=words("web-1", "shop/*", "gone/old-b", "api-*"),
    workload=words("web", "Deployment/*", "StatefulSet/web"),
    labels=st.sampled_from((
        {"matchLabels": {"app": "web"}}, {"matchExpressions": [{"key": "k8s-app", "operator": "Exists"}]},
        {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, {},
    )),
    node=words("n1", "n*", "n2"),
)  # fmt: skip
matches = fields(
    2,
    port=words(0, 443, 8080, "0-1023", "1024-65535", "8000-9000"),
    src=ends,
    dest=ends,
    subject=ends,
    peer=ends,
    either=ends,
    service=words("api", "shop/api", "shop/*", "x"),
    verdict=words("allow", "deny", "audit"),
    direction=words("ingress", "egress"),
    reason=words("policy", "default_deny", "spoofed", "unknown"),
    protocol=words("tcp", "udp", "icmp", "47"),
    policy=words("allow-web", "shop/*", "baseline", "*/deny-all"),
    node=words("n1", "n2"),
)
routes = st.lists(
    st.fixed_dictionaries({
        "match": st.one_of(matches, st.lists(matches, max_size=2)),
        "except": st.one_of(st.just([]), st.just([]), matches),
        "sample": st.sampled_from((1.0, 1.0, 0.5, 0.01)),
    }),
    min_size=1,
    max_size=5,
)  # fmt: skip


def matchers(given_routes: list[dict[str, Any]]) -> list[Matcher]:
    listed = [{"name": f"r{number}", "outputs": OUTPUTS, **one} for number, one in enumerate(given_routes)]
    made = msgspec.convert({"version": 1, "routes": listed}, Routes)
    assert not check(made, frozenset())
    return [route.matcher() for route in made.routes]


def verdicts_of(chance: random.Random, count: int) -> list[dict[str, Any]]:
    """Verdicts of few distinct values, so that some differ in one field only."""
    addresses = ("", "", "10.0.0.1", "10.0.0.2", "fd00::1", "192.0.2.1", "203.0.113.9", "2001:db8::9")
    pools: dict[str, tuple[Any, ...]] = {
        "source": addresses, "destination": addresses, "dialled": ("", "", "10.96.0.1", "10.96.0.9"),
        "source_port": (1, 2, 3), "destination_port": (0, 443, 1023, 1024, 8000, 8080, 9001),
        "protocol": (6, 6, 17, 1, 47, 0),
        "dialled_port": (80, 443, 8080), "endpoint": (7, 7, 8, 0), "rule": (1, 2, 0), "flags": (0, 0, 0, 0, 1),
        "verdict": (1, 2, 3, 0x81, 0x82, 0x83, 9), "reason": (0, 2, 3, 7, 99),
    }  # fmt: skip
    return [{name: chance.choice(pool) for name, pool in pools.items()} for _ in range(count)]


@settings(max_examples=80, deadline=None)
@example([{"match": {"dest": {"cidr": "::/0"}}, "except": [], "sample": 1.0}], 0)
@given(routes, st.integers(0, 1 << 32))
def test_it_agrees_with_the_matcher_of_records(given_routes: list[dict[str, Any]], seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - verdicts of a test
    naive = matchers(given_routes)
    classifier, enricher = Classifier(naive), Enricher(make_cluster())
    for _ in range(2):
        records = enricher.records(merge(make_batch(*verdicts_of(chance, 60))))
        masks = classifier.masks(records).tolist()
        for value, mask in zip(records.values, masks, strict=True):
            flow = decode_flow(value)
            assert [bool(mask >> bit & 1) for bit in range(len(naive))] == [one.takes(flow) for one in naive], flow
            assert [one.why_not(flow) is None for one in naive] == [one.takes(flow) for one in naive]


def test_64_routes_have_a_bit_each() -> None:
    naive = matchers([{"match": {"port": 8000 + number}} for number in range(64)])
    batch = make_batch({"destination_port": 8000}, {"destination_port": 8063})
    records = Enricher(make_cluster()).records(merge(batch))
    assert Classifier(naive).masks(records).tolist() == [1, 1 << 63]


@pytest.mark.parametrize("match", [{"node": "n2"}, {"subject": {"namespace": "gone"}}, {"src": {"pod": "api-*"}}])
def test_a_route_that_a_template_rules_out_is_not_asked(match: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fits(_: Matcher, flow: Any) -> bool:
        asked.append(flow)
        return True

    monkeypatch.setattr(Matcher, "fits", fits)
    records = Enricher(make_cluster()).records(merge(make_batch({}, {"destination_port": 1})))
    other, every = matchers([{"match": match}, {}])
    assert Classifier([other]).masks(records).tolist() == [0, 0]
    assert not asked
    assert Classifier([other, every]).masks(records).tolist() == [2, 2]
    assert asked


def test_no_routes_take_nothing() -> None:
    records = Enricher(make_cluster()).records(merge(make_batch({}, {})))
    assert Classifier([]).masks(records).tolist() == [0, 0]


def test_a_sample_takes_both_records_of_a_connection_about_its_share_and_every_deny() -> None:
    [matcher] = matchers([{"match": {}, "sample": 0.25}])
    enricher = Enricher(make_cluster())
    verdicts = [{"source_port": port} for port in range(1000, 3000)]
    egress = Classifier([matcher]).masks(enricher.records(merge(make_batch(*verdicts)))).tolist()
    turned = make_batch(*({**verdict, "verdict": 0x81} for verdict in verdicts))
    ingress = Classifier([matcher]).masks(enricher.records(merge(turned))).tolist()
    assert egress == ingress
    assert 400 < sum(egress) < 600
    denied = enricher.records(merge(make_batch(*({**verdict, "verdict": 2} for verdict in verdicts))))
    assert sum(Classifier([matcher]).masks(denied).tolist()) == 2000
