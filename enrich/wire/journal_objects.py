"""The states of objects inside the journal's entries: strict forms of the values of :mod:`enrich.model`.

Each form has the fields of its value under the same names, with the bounds of :mod:`enrich.wire.bounds`, and leaves out
fields that have their default. So a state is decoded twice: by its form, which refuses what no writer of ours makes,
and then as the value itself.

A selector may hold texts that are neither keys nor values of labels: what cannot be read in a policy matches nothing
(:mod:`enrich.parse.network_policy`), and is kept like that.
"""

from __future__ import annotations

import functools
import ipaddress
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from enrich.label_selector import Operator
from enrich.model import (
    Action,
    AdminNetworkPolicy,
    BaselineAdminNetworkPolicy,
    ClusterNetworkPolicy,
    Namespace,
    NetworkPolicy,
    Node,
    Protocol,
    Service,
    Tier,
)
from enrich.network_logging import LoggingSpec, NetworkLogging
from enrich.wire import bounds

Journaled = Namespace | Node | Service | NetworkPolicy | ClusterNetworkPolicy | NetworkLogging
"""What the API has, and the journal keeps."""

_MAX_TEXT: Final = 4096
_MAX_CHECKED: Final = 100_000
"""Limit of addresses and networks that are remembered as valid."""
_Text = Annotated[str, Meta(max_length=_MAX_TEXT)]
_Priority = Annotated[int, Meta(ge=0, le=1000)]
_Labels = dict[bounds.LabelKey, bounds.LabelValue]


class _Form(msgspec.Struct, frozen=True, omit_defaults=True):
    """A form leaves out what has its default."""


class _Requirement(_Form, frozen=True):
    key: _Text
    operator: Operator
    values: tuple[_Text, ...] = ()


class _Selector(_Form, frozen=True):
    requirements: tuple[_Requirement, ...] = ()


class _IPBlock(_Form, frozen=True):
    cidr: str
    excepts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        version = _network_version(self.cidr)
        if any(_network_version(one) != version for one in self.excepts):
            raise ValueError(f"the exceptions of {self.cidr} must be of its family")


class _Peer(_Form, frozen=True):
    namespaces: _Selector | None = None
    pods: _Selector | None = None
    ip_block: _IPBlock | None = None
    nodes: _Selector | None = None


class _PolicyPort(_Form, frozen=True):
    protocol: Protocol
    port: bounds.Port | _Text | None = None
    end_port: bounds.Port | None = None


class _Rule(_Form, frozen=True):
    peers: tuple[_Peer, ...] = ()
    ports: tuple[_PolicyPort, ...] = ()


class _NetworkPolicy(_Form, frozen=True):
    namespace: bounds.Namespace
    name: bounds.ObjectName
    uid: bounds.Uid
    pods: _Selector
    ingress: tuple[_Rule, ...] | None = None
    egress: tuple[_Rule, ...] | None = None
    audit: bool = False
    logging: _Text | None = None


class _ClusterRule(_Form, frozen=True):
    action: Action
    peers: tuple[_Peer, ...]
    ports: tuple[_PolicyPort, ...] = ()
    name: _Text = ""


class _ClusterNetworkPolicy(_Form, frozen=True):
    name: bounds.ObjectName
    uid: bounds.Uid
    tier: Tier
    priority: _Priority
    namespaces: _Selector
    pods: _Selector
    ingress: tuple[_ClusterRule, ...] = ()
    egress: tuple[_ClusterRule, ...] = ()
    audit: bool = False
    logging: _Text | None = None


class _Namespace(_Form, frozen=True):
    name: bounds.ObjectName
    uid: bounds.Uid
    labels: _Labels
    audit: bool = False
    deny_logging: _Text | None = None


class _Node(_Form, frozen=True):
    name: bounds.ObjectName
    uid: bounds.Uid
    labels: _Labels
    ips: tuple[str, ...] = ()
    zone: bounds.LabelValue = ""
    pod_cidrs: tuple[str, ...] = ()
    tunnel_ips: tuple[str, ...] = ()
    reserved_ips: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_addresses((*self.ips, *self.tunnel_ips, *self.reserved_ips))
        for one in self.pod_cidrs:
            _network_version(one)


class _Service(_Form, frozen=True):
    namespace: bounds.Namespace
    name: bounds.ObjectName
    uid: bounds.Uid
    cluster_ips: tuple[str, ...] = ()
    outer_ips: tuple[str, ...] = ()
    ports: tuple[tuple[bounds.Octet, bounds.Port], ...] = ()
    node_ports: tuple[tuple[bounds.Octet, bounds.Port], ...] = ()

    def __post_init__(self) -> None:
        _check_addresses((*self.cluster_ips, *self.outer_ips))


class _NetworkLogging(_Form, frozen=True):
    name: bounds.ObjectName
    uid: bounds.Uid
    spec: LoggingSpec | None = None
    invalid: _Text = ""


_FORMS: Final[dict[type[Journaled], type[_Form]]] = {
    Namespace: _Namespace,
    Node: _Node,
    Service: _Service,
    NetworkPolicy: _NetworkPolicy,
    ClusterNetworkPolicy: _ClusterNetworkPolicy,
    AdminNetworkPolicy: _ClusterNetworkPolicy,
    BaselineAdminNetworkPolicy: _ClusterNetworkPolicy,
    NetworkLogging: _NetworkLogging,
}
JOURNALED: Final[dict[str, type[Journaled]]] = {kind.__name__: kind for kind in _FORMS}
"""The kinds of objects that the journal keeps, by name."""
_STRICT: Final = {kind.__name__: msgspec.json.Decoder(form) for kind, form in _FORMS.items()}
_VALUES: Final = {kind.__name__: msgspec.json.Decoder(kind) for kind in _FORMS}
_encode = msgspec.json.Encoder(order="deterministic").encode


def encode_state(made: Journaled) -> bytes:
    """Encode the state of an object; equal states have equal bytes. Raises ValueError if it does not fit the form."""
    return _encode(_STRICT[type(made).__name__].decode(_encode(made)))


def decode_state(kind: str, state: bytes | msgspec.Raw) -> Journaled:
    """Decode the state of an object of a kind in :data:`JOURNALED`. Raises ValueError or RecursionError."""
    _STRICT[kind].decode(state)
    return _VALUES[kind].decode(state)


@functools.lru_cache(_MAX_CHECKED)
def _network_version(text: str) -> int:
    """Return the family of a network. Raises ValueError unless the text is canonical, as the parsers write it."""
    found = ipaddress.ip_network(text)
    # Python takes a zone, which no packet has.
    if str(found) != text or "%" in text:
        raise ValueError(f"{text!r} is not a network in its canonical form")
    return found.version


@functools.lru_cache(_MAX_CHECKED)
def _check_address(text: str) -> None:
    if str(ipaddress.ip_address(text)) != text or "%" in text:
        raise ValueError(f"{text!r} is not an address in its canonical form")


def _check_addresses(texts: tuple[str, ...]) -> None:
    for text in texts:
        _check_address(text)
