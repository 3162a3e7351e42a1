"""The filters of `weir observe` as people type them: understood or refused, and never silently without a match."""

from __future__ import annotations

from typing import Any

import pytest

from streams.cli.filter_options import FilterError, read_filters
from tests.streams.cli.test_observe import RECORD, make_flow

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
        ({"except_reasons": ["x"]}, "it is one of unknown, no_policy"),
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
        ({"reasons": ["node"], "except_reasons": ["node", "policy"]}, "no flow fits"),
    ],
)
def test_what_can_fit_nothing_is_refused(options: dict[str, list[Any]], said: str) -> None:
    with pytest.raises(FilterError) as caught:
        read_filters(options)
    assert said in str(caught.value)
