"""How many external and load balancers' addresses of Services are kept."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from enrich.index import named_addresses
from enrich.index.changes import Key
from enrich.index.cluster import KINDS, Change, Cluster
from enrich.model import Service

S = 1_000_000_000
TCP = 6


def service(name: str, ips: Iterable[str], ports: Iterable[int]) -> Service:
    return Service("shop", name, name, (), tuple(ips), tuple((TCP, port) for port in ports))


class Site:
    """An index with a clock, and a reader that follows its changes."""

    def __init__(self, *services: Service) -> None:
        self.now = 1000 * S
        self.cluster = Cluster(now_ns=lambda: self.now)
        self.cluster.replace_all({kind: services if kind is Service else () for kind in KINDS})
        self.follower = self.cluster.changes.follow()

    def apply(self, *changes: Change) -> None:
        self.now += 100 * S
        self.cluster.apply(changes)

    def name(self, ip: str, port: int, age_s: int = 0) -> str | None:
        owner = self.cluster.named_addresses.service_at(ip, TCP, port, self.now + 10 * S - age_s * S).owner
        return None if owner is None else owner.name

    @property
    def kept(self) -> int:
        outer = self.cluster.named_addresses._outer
        return 0 if outer is None else len(outer._owners)


def test_a_service_with_many_addresses_and_ports_is_not_named_by_them_nor_is_another_with_one_of_them() -> None:
    ips = [f"203.0.{number >> 8}.{number & 255}" for number in range(300)]
    site = Site(service("large", ips, range(300)), service("other", ips[:1], [80]), service("web", ["192.0.2.1"], [80]))
    assert site.kept == 302
    assert [site.name(ip, 80) for ip in (ips[0], ips[1], "192.0.2.1")] == [None, None, "web"]
    site.apply(Change("set", service("large", ips, [443])))
    assert [site.name(ips[0], port) for port in (80, 443, 444)] == ["other", "large", None]
    assert site.name(ips[0], 80, age_s=100) is None, "then it may have been either"
    site.apply(Change("set", service("large", ips[:64], range(64))))
    assert site.name(ips[63], 63) == "large", "so many are kept"
    site.apply(Change("set", service("large", ips[:64], range(65))))
    assert site.name(ips[63], 63) is None


def test_while_services_have_too_many_addresses_together_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named_addresses, "MAX_OUTER", 5)
    web, api = service("web", ["192.0.2.1"], [80, 443]), service("api", ["192.0.2.2"], [80, 443])
    third = service("third", ["192.0.2.3"], [80, 443])
    keys = {Key("address", f"192.0.2.{number}") for number in (1, 2, 3)}
    site = Site(web, api)
    site.apply(Change("set", third))
    assert site.follower.take() == keys, "readers forget the names that they keep"
    for started in (site, Site(web, api, third), Site(third, api, web)):
        assert [started.name(f"192.0.2.{number}", 80) for number in (1, 2, 3)] == [None] * 3
        assert started.kept == 0
    site.apply(Change("set", service("fourth", ["192.0.2.4"], range(20))))
    site.apply(Change("delete", web), Change("delete", service("fourth", ["192.0.2.4"], range(20))))
    assert site.follower.take() == keys | {Key("address", "192.0.2.4")}
    for started in (site, Site(api, third)):
        assert [started.name(f"192.0.2.{number}", 80) for number in (1, 2, 3)] == [None, "api", "third"]
    assert site.name("192.0.2.2", 80, age_s=50) is None, "who had it before is not known"
