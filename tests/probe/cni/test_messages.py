"""Requests of the CNI plugin: what is taken from them, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from probe.cni.messages import GREETING, RequestError, parse_request

ENV = {
    "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": "/run/netns/a",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u;K8S_POD_INFRA_CONTAINER_ID=c1",
}  # fmt: skip
PREVIOUS: dict[str, Any] = {
    "interfaces": [{"name": "br0"}, {"name": "v1"}, {"name": "eth0", "sandbox": "/run/netns/a"},
                   {"name": "net1", "sandbox": "/run/netns/a"}],
    "ips": [{"address": "10.0.0.1/24", "interface": 0}, {"address": "10.0.0.9/24", "interface": 2},
            {"address": "fd44:0:0::9/64", "interface": 2}, {"address": "10.9.0.9/24", "interface": 3}],
}  # fmt: skip


def raw(previous: Any = PREVIOUS, env: dict[str, str] = ENV, **more: Any) -> bytes:
    variables = b"".join(f"{name}={value}".encode() + b"\0" for name, value in env.items())
    return GREETING + variables + b"\0" + json.dumps({"prevResult": previous, **more}).encode()


def test_a_pod_has_the_addresses_of_its_own_interface_in_canonical_form() -> None:
    request = parse_request(raw(cniVersion="0.4.0"))
    assert request.addresses == ("10.0.0.9", "fd44::9")
    assert (request.namespace, request.pod, request.uid, request.version) == ("shop", "web", "u", "0.4.0")


def test_addresses_that_name_no_interface_are_the_pods() -> None:
    assert parse_request(raw({"ips": [{"address": "10.0.0.9/24"}, {"address": "10.0.0.8/24"}]})).addresses == (
        "10.0.0.9",
    )


def test_a_delete_needs_no_result() -> None:
    request = parse_request(GREETING + b"CNI_COMMAND=DEL\0CNI_CONTAINERID=c\0CNI_IFNAME=eth0\0\0garbage")
    assert (request.command, request.container, request.previous) == ("DEL", "c", None)


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        GREETING,
        GREETING + b"CNI_COMMAND=ADD",
        GREETING + b"CNI_COMMAND=\xff\0\0{}",
        raw(env={**ENV, "CNI_COMMAND": "STATUS"}),
        raw(env={**ENV, "CNI_IFNAME": "../../etc"}),
        raw(env={**ENV, "CNI_IFNAME": ""}),
        raw(env={**ENV, "CNI_CONTAINERID": ""}),
        raw(env={**ENV, "CNI_ARGS": "K8S_POD_NAMESPACE=shop"}),
        raw(None),
        raw([]),
        raw({}),
        raw({"ips": []}),
        raw({"ips": [{"address": "localhost"}]}),
        raw({"ips": [{"address": 5}]}),
        raw({"ips": ["10.0.0.1/24"]}),
        raw({"ips": [{"address": "10.0.0.9/24", "interface": 7}], "interfaces": []}),
        raw({"ips": [{"address": "10.0.0.9/24", "interface": "x"}]}),
        raw()[:-3],
        raw(env={**ENV, "CNI_NETNS": "/run/netns/b"}),
    ],
)
def test_what_cannot_be_a_request_is_refused(request_: bytes) -> None:
    with pytest.raises(RequestError):
        parse_request(request_)
