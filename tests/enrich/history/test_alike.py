"""Pods and ports that policies do not tell apart are of one class, and others are not."""

from __future__ import annotations

from typing import Any

import pytest

from enrich.history.alike import Alike
from enrich.model import NamedPort, Pod, Protocol
from enrich.policy.matching import PolicyView
from tests.enrich.history.journals import policy

_WEB = {"podSelector": {"matchLabels": {"app": "web"}}}


def alike(*ports: dict[str, Any]) -> Alike:
    """What a policy of `shop` tells apart that lets web reach db at some ports."""
    spec = {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [_WEB], "ports": list(ports)}]}
    mine, other = policy("own", spec), policy("other", {"podSelector": {"matchLabels": {"tier": "x"}}}, "data")
    return Alike([PolicyView({}, {}, {}, {mine.key: mine, other.key: other}, {})], "shop")


def pod(app: str, namespace: str = "shop", *ports: NamedPort, **labels: str) -> Pod:
    return Pod(namespace, "p", "u", {"app": app, **labels}, ("10.0.0.1",), ports=ports)


def test_pods_are_told_apart_by_what_policies_select() -> None:
    made = alike({"port": 80})
    pods = [pod("db"), pod("web"), pod("api"), pod("dns", tier="x"), pod("api", "data"), pod("db", tier="y")]
    assert [made.pods(kind, one) for kind, one in enumerate(pods)] == [0, 1, 2, 2, 3, 0]


def test_named_ports_are_told_apart_if_a_policy_names_them() -> None:
    named = NamedPort("http", 80, Protocol.TCP)
    pods = [pod("web"), pod("web", "shop", named)]
    assert {alike({"port": 80}).pods(kind, one) for kind, one in enumerate(pods)} == {0}
    made = alike({"port": "http"})
    assert [made.pods(kind, one) for kind, one in enumerate(pods)] == [0, 1]
    assert [made.port(one) for one in (80, 81, None)] == [80, 81, None], "a name may mean any of them"


@pytest.mark.parametrize(("port", "end", "same"), [(80, None, (80, 80)), (80, 90, (80, 90))])
def test_ports_are_told_apart_by_where_a_rule_begins_and_ends(
    port: int, end: int | None, same: tuple[int, int]
) -> None:
    made = alike({"port": port} if end is None else {"port": port, "endPort": end})
    first, last = same
    assert made.port(first) == made.port(last)
    assert made.port(0) == made.port(first - 1)
    assert made.port(last + 1) == made.port(65_535)
    assert len({made.port(one) for one in (0, first, last + 1)}) == 3
    assert made.port(None) is None
