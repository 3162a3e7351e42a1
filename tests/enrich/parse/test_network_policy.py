"""What of a NetworkPolicy is refused, and by which field's name. ``tests/cluster`` asks a real API server the same."""

from __future__ import annotations

from typing import Any, Final

import pytest

from enrich.model import IPBlock, NetworkPolicy
from enrich.parse.objects import InvalidObjectError, parse


def _egress(**port: Any) -> dict[str, Any]:
    return {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [port]}]}


def _block(cidr: Any, *holes: str) -> dict[str, Any]:
    block = {"cidr": cidr, "except": list(holes)} if holes else {"cidr": cidr}
    return {"podSelector": {}, "ingress": [{"from": [{"ipBlock": block}]}]}


def _from(peer: Any) -> dict[str, Any]:
    return {"podSelector": {}, "ingress": [{"from": [peer]}]}


def _expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"podSelector": {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}}


_PORT, _END = "spec.egress[0].ports[0].port", "spec.egress[0].ports[0].endPort"
_CIDR, _HOLE = "spec.ingress[0].from[0].ipBlock.cidr", "spec.ingress[0].from[0].ipBlock.except[0]"
_KEY, _VALUES = "spec.podSelector.matchExpressions[0].key", "spec.podSelector.matchExpressions[0].values"

SPECS: Final[list[tuple[Any, str]]] = [
    (None, ""),
    ({}, ""),
    ({"podSelector": None, "policyTypes": []}, ""),
    ({"policyTypes": ["Egress", "Egress"]}, ""),
    ({"policyTypes": ["Ingress", "Egress", "Ingress"]}, "spec.policyTypes"),
    ({"policyTypes": ["ingress"]}, "spec.policyTypes[0]"),
    (_egress(), ""),
    (_egress(port=0), _PORT),
    (_egress(port=65536), _PORT),
    (_egress(port="80"), _PORT),
    (_egress(port=""), _PORT),
    (_egress(port="Http"), _PORT),
    (_egress(port="-a"), _PORT),
    (_egress(port="a-"), _PORT),
    (_egress(port="a--b"), _PORT),
    (_egress(port="1-a-1"), ""),
    (_egress(port="abcdefghijklmnop"), _PORT),
    (_egress(protocol="tcp"), "spec.egress[0].ports[0].protocol"),
    (_egress(endPort=80), _END),
    (_egress(port="a", endPort=80), _END),
    (_egress(port=80, endPort=79), _END),
    (_egress(port=80, endPort=80), ""),
    (_egress(port=80, endPort=65536), _END),
    (_block("10.1.2.3/8"), ""),
    (_block("010.00.0.0/8"), ""),
    (_block("FD00::1/8"), ""),
    (_block("::ffff:10.0.0.0/104"), ""),
    (_block("10.0.0.0"), _CIDR),
    (_block("10.0.0.0/33"), _CIDR),
    (_block("10.0.0.0/255.0.0.0"), _CIDR),
    (_block("10.0.0.0/0.0.0.255"), _CIDR),
    (_block("fe80::1%eth0/64"), _CIDR),
    (_block("10/8"), _CIDR),
    (_block(None), _CIDR),
    (_block("10.0.0.0/8", "10.1.2.3/16"), ""),
    (_block("10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/16", "10.1.1.0/24"), ""),
    (_block("10.0.0.0/8", "::ffff:10.1.0.0/112"), ""),
    (_block("10.0.0.0/8", "10.1.2.3/8"), _HOLE),
    (_block("10.0.0.0/8", "10.0.0.0/7"), _HOLE),
    (_block("10.0.0.0/8", "11.0.0.0/16"), _HOLE),
    (_block("10.0.0.0/8", "fd00::/16"), _HOLE),
    (_block("::/0", "::ffff:10.1.0.0/112"), _HOLE),
    (_from({}), "spec.ingress[0].from[0]"),
    (_from({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}), "spec.ingress[0].from[0]"),
    (_from({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": None}), ""),
    (_expression("a", "Exists"), ""),
    (_expression("a", "Exists", "b"), _VALUES),
    (_expression("a", "NotIn"), _VALUES),
    (_expression("a", "Gt", "1"), "spec.podSelector.matchExpressions[0].operator"),
    (_expression("", "Exists"), _KEY),
    (_expression("a/b/c", "Exists"), _KEY),
    (_expression("/a", "Exists"), _KEY),
    (_expression("a" * 64 + ".io/b", "Exists"), ""),
    (_expression("a" * 64, "Exists"), _KEY),
    (_expression("a", "In", "-b"), f"{_VALUES}[0]"),
    (_expression("a", "In", ""), ""),
]
"""A spec, and the field that is refused; none: it is right."""


def policy(spec: Any) -> dict[str, Any]:
    """The object; without a spec where that is None."""
    made = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    return {**made, "metadata": {"name": "a", "namespace": "default"}, **({} if spec is None else {"spec": spec})}


@pytest.mark.parametrize(("spec", "field"), SPECS, ids=lambda value: str(value)[:60])
def test_what_is_refused_is_refused_by_its_name(spec: Any, field: str) -> None:
    if not field:
        assert isinstance(parse(policy(spec)), NetworkPolicy)
        return
    with pytest.raises(InvalidObjectError) as refused:
        parse(policy(spec))
    assert refused.value.field == field


def test_no_spec_isolates_every_pod_on_ingress() -> None:
    made = parse(policy(None))
    assert isinstance(made, NetworkPolicy)
    assert (made.pods.requirements, made.ingress, made.egress) == ((), (), None)


@pytest.mark.parametrize("cidr", ["010.1.2.3/08", "::ffff:10.0.0.0/104", "::ffff:a01:203/104"])
def test_one_block_in_several_writings(cidr: str) -> None:
    made = parse(policy(_block(cidr)))
    assert isinstance(made, NetworkPolicy)
    assert made.ingress is not None
    assert made.ingress[0].peers[0].ip_block == IPBlock("10.0.0.0/8")
