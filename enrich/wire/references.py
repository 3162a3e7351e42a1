"""What the numbers in verdicts stand for, as headers of batches explain them."""

from __future__ import annotations

import msgspec

from enrich.wire.bounds import Kind, Namespace, NamespaceOrNone, ObjectName, Small, Uid


class EndpointRef(msgspec.Struct, frozen=True):
    """The local pod that an endpoint number stands for."""

    namespace: Namespace
    pod: ObjectName
    uid: Uid = ""


class PolicyRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of the policies that a rule number stands for. ``rule`` is the index of the ingress or egress rule of it that
    decided; None if no single rule did."""

    kind: Kind
    namespace: NamespaceOrNone
    name: ObjectName
    rule: Small | None = None
