"""The filters of `weir observe` as people type them: understood or refused, and never silently without a match."""

from __future__ import annotations

from typing import Any

import pytest

from streams.observing.filter_options import FilterError, read_choice, read_filters
from tests.streams.observing.test_observe import RECORD, make_flow, make_value

V6 = {**RECORD["connection"], "src_ip": "fd00::1", "dest_ip": "fd00::2"}


@pytest.mark.parametrize(
    ("options", "record"),
    [
        ({"protocols": ["TCP"]}, {}),
        ({"protocols": ["6"]}, {}),
        ({"protocols": ["ICMPv6"]}, {"connection": {**V6, "protocol": "icmpv6"}}),
        ({"protocols": ["047"]}, {"connection": {**V6, "protocol": "47"}}),
        ({"sources": ["10.0.0.0/24"]}, {}),
        ({"sources": ["10.0.0.7/24"]}, {}),
        ({"sources": ["::ffff:10.0.0.1"]}, {}),
        ({"sources": ["::ffff:10.0.0.0/120"]}, {}),
        ({"sources": ["0.0.0.0/0"]}, {}),
        ({"sources": ["FD00:0:0::0001"]}, {"connection": V6}),
        ({"destinations": ["[fd00::2]"]}, {"connection": V6}),
        ({"destinations": ["fd00::2%eth0"]}, {"connection": V6}),
        ({"destinations": ["fd00::/64"]}, {"connection": V6}),
        ({"destinations": ["back/api-*"]}, {}),
        ({"reasons": ["default-deny"]}, {"reason": "default_deny"}),
        ({"reasons": ["No Policy"]}, {"reason": "no_policy"}),
        ({"labels": ["app==api"]}, {}),
        ({"labels": ["app=a*"]}, {}),
        ({"namespaces": ["*"]}, {}),
        ({"policies": ["shop/web-*"]}, {}),
        ({"workloads": ["Deployment/web"]}, {}),
        ({"workloads": ["deployment/web"]}, {}),
        ({"workloads": ["StatefulSet/a*"]}, {}),
        ({"networks": ["10.0.0.9/24"]}, {}),
        ({"networks": ["[fd00::2]"]}, {"connection": V6}),
        ({"sources": ["10.0.0.1", "fd00::1"], "networks": ["fd00::/8"]}, {"connection": V6}),
        ({"ids": ["r-1"]}, {}),
    ],
)
def test_other_spellings_are_understood(options: dict[str, list[Any]], record: dict[str, Any]) -> None:
    assert read_filters(options).match(make_flow(**record))


def test_an_address_of_the_other_family_is_in_no_network() -> None:
    assert not read_filters({"sources": ["::/0"]}).match(make_flow())
    assert not read_filters({"sources": ["0.0.0.0/0"]}).match(make_flow(connection={"direction": "egress"}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"protocols": ["tpc"]}, "must be one of icmp, tcp, udp"),
        ({"protocols": ["256"]}, "must be one of"),
        ({"protocols": [""]}, "must be one of"),
        ({"reasons": ["defualt_deny"]}, "did you mean default_deny?"),
        ({"sources": ["10.0.0.0/33"]}, "neither an address nor a network"),
        ({"sources": ["10.0.0.256"]}, "neither an address nor a network"),
        ({"sources": ["10.0.0.1:80"]}, "neither an address nor a network"),
        ({"destinations": ["fd00::g"]}, "neither an address nor a network"),
        ({"destinations": ["a/b/c"]}, "write NAME or NAMESPACE/NAME"),
        ({"pods": ["Web-0"]}, "in lower case"),
        ({"pods": [""]}, "no pod has this name"),
        ({"policies": ["NetworkPolicy shop/web"]}, "no policy has this name"),
        ({"namespaces": ["shop/web-0"]}, "for a pod, use --pod"),
        ({"namespaces": [""]}, "no namespace has this name"),
        ({"labels": ["app!=web"]}, "KEY or KEY=VALUE"),
        ({"labels": ["app=web,tier=db"]}, "give -l again"),
        ({"labels": ["app in (web)"]}, "KEY or KEY=VALUE"),
        ({"ports": [80], "protocols": ["ICMP"]}, "ICMP has no ports"),
        ({"subjects": ["Web"]}, "no pod has this name"),
        ({"services": ["a/b/c"]}, "no Service has this name"),
        ({"nodes": ["Node 1"]}, "no node has this name"),
        ({"networks": ["web-0"]}, "for a pod, use --pod"),
        ({"networks": ["10.0.0.0/33"]}, "neither an address nor a network"),
        ({"workloads": ["shop/web"]}, "use -n shop --workload web"),
        ({"workloads": ["Pod/web-0"]}, "use --pod web-0"),
        ({"workloads": ["Deployment/"]}, "KIND/NAME"),
        ({"workloads": ["/web"]}, "KIND/NAME"),
        ({"ids": ["4711"]}, "RING-NUMBER"),
        ({"sources": ["10.0.0.1"], "destinations": ["fd00::/8"]}, "one family"),
        ({"sources": ["10.0.0.1"], "networks": ["fd00::/8"]}, "one family"),
    ],
)
def test_what_can_fit_nothing_is_refused(options: dict[str, list[Any]], said: str) -> None:
    with pytest.raises(FilterError) as caught:
        read_filters(options)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("required", "excluded", "said"),
    [
        ({"ports": [80]}, {"ports": [80, 443]}, "--not --port leaves out every --port"),
        ({"reasons": ["node"]}, {"reasons": ["node", "policy"]}, "--not --reason leaves out every --reason"),
        ({"reasons": ["node"], "except_reasons": ["node"]}, {}, "no flow fits"),
        ({"except_reasons": ["x"]}, {}, "it is one of unknown, no_policy"),
        ({"networks": ["10.0.0.1/8"]}, {"networks": ["10.0.0.0/8"]}, "no flow fits"),
        ({}, {"directions": ["ingress", "egress"]}, "both directions"),
        ({}, {"pods": ["A"]}, "no pod has this name"),
        ({"expressions": ["true"]}, {"expressions": ["true"]}, "no flow fits"),
    ],
)
def test_what_not_leaves_nothing_of_is_refused(
    required: dict[str, list[Any]], excluded: dict[str, list[Any]], said: str
) -> None:
    with pytest.raises(FilterError) as caught:
        read_choice(required, excluded)
    assert said in str(caught.value)


def test_what_not_leaves_something_of_is_taken() -> None:
    choice = read_choice(
        {"ports": [80, 443], "except_reasons": ["node"]},
        {"ports": [443], "sources": ["10.0.0.1"], "destinations": ["fd00::/8"], "protocols": ["icmp"]},
    )
    record = {"connection": {**RECORD["connection"], "src_ip": "10.0.0.9"}}
    assert choice.match(make_flow(**record), make_value(**record))
    assert not choice.match(make_flow(), make_value())
    assert not choice.match(make_flow(**record, reason="node"), make_value(**record, reason="node"))
