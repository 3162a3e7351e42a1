"""The filters of `weir observe` as people type them: other spellings are understood; what can fit nothing is refused.

A filter that silently fits nothing looks like a cluster without traffic.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from enrich.parse.spelling import nearest
from enrich.render.template import PROTOCOLS
from enrich.wire.batch import Reason
from streams.observing.choice import Choice
from streams.observing.expression import CelExpression
from streams.observing.filters import Filters

_REASONS: Final = tuple(reason.name.lower() for reason in Reason)
_PROTOCOL_NAMES: Final = {**{name: name for name in PROTOCOLS.values()}, "ipv6-icmp": "icmpv6", "icmp6": "icmpv6"}
_KINDS: Final = frozenset({"deployment", "statefulset", "daemonset", "replicaset", "job", "cronjob", "rollout"})
"""Kinds of workloads that are understood in lower case, in which a namespace is written, too."""
_ID: Final = re.compile(r".+-[0-9]+")
_WITHOUT_PORTS: Final = frozenset({"icmp", "icmpv6"})
# Patterns, so a * may stand in each.
_NAMESPACE: Final = re.compile(r"[a-z0-9*]([a-z0-9*-]{0,61}[a-z0-9*])?")
_NAME: Final = re.compile(r"[a-z0-9*]([a-z0-9.*-]{0,251}[a-z0-9*])?")
_LABEL_KEY: Final = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9*]([A-Za-z0-9_.*-]*[A-Za-z0-9*])?)?")
_LIKE_ADDRESS: Final = re.compile(r"[0-9.]+(/[0-9.]*)?|[^*]*:[^*]*")


class FilterError(ValueError):
    """An option can fit no flow. The message says which, why, and what to write."""


def read_choice(options: Mapping[str, Sequence[Any]], negated: Mapping[str, Sequence[Any]]) -> Choice:
    """Return the choice that some options mean, and those behind ``--not``. Raises :class:`FilterError`, and
    :class:`streams.observing.expression.ExpressionError`."""
    given, turned = dict(options), {name: list(values) for name, values in negated.items()}
    turned["reasons"] = [*turned.get("reasons", ()), *given.pop("except_reasons", ())]
    expressions, excluding = given.pop("expressions", ()), turned.pop("expressions", ())
    filters, excluded = read_filters(given), read_filters(turned, are_together=False)
    for field, option in _OPTIONS.items():
        values = set(getattr(filters, field))
        if values and values <= set(getattr(excluded, field)):
            raise FilterError(f"--not {option} leaves out every {option} that is asked for, so that no flow fits")
    if set(excluded.directions) >= {"ingress", "egress"}:
        raise FilterError("--not --direction leaves out both directions, so that no flow fits")
    if set(expressions) & set(excluding):
        raise FilterError("--not --cel leaves out what the same --cel asks for, so that no flow fits")
    return Choice(filters, excluded, [*map(CelExpression, expressions)], [*map(CelExpression, excluding)])


def read_filters(options: Mapping[str, Sequence[Any]], *, are_together: bool = True) -> Filters:
    """Return the filters that some options mean; keys are the fields of Filters. Raises :class:`FilterError`.

    ``are_together``: a flow must fit all of them, so that they must not contradict each other."""
    found = dict(options)
    for name, read in _READERS.items():
        found[name] = [read(text) for text in options.get(name, ())]
    filters = Filters(**found)
    if are_together:
        _check_together(filters)
    return filters


def _check_together(filters: Filters) -> None:
    if filters.ports and filters.protocols and _WITHOUT_PORTS.issuperset(filters.protocols):
        raise FilterError(f"--port and --protocol {filters.protocols[0]} fit no flow together: ICMP has no ports")
    families = {
        option: found
        for option, values in (
            ("--from", filters.sources),
            ("--to", filters.destinations),
            ("--cidr", filters.networks),
        )
        if (found := _families(values))
    }
    if len(families) > 1 and not set.intersection(*map(set, families.values())):
        raise FilterError(f"{' and '.join(families)} fit no flow together: a connection has one family, IPv4 or IPv6")


def _families(values: Sequence[str]) -> frozenset[int]:
    """Return the families of some ends; none if one of them may have any, as the name of a pod may."""
    found = set()
    for value in values:
        try:
            found.add(ipaddress.ip_network(value).version)
        except ValueError:
            return frozenset()
    return frozenset(found)


def _protocol(text: str) -> str:
    name = text.strip().lower()
    if name.isascii() and name.isdigit() and int(name) <= 255:
        return PROTOCOLS.get(int(name), str(int(name)))
    if name not in _PROTOCOL_NAMES:
        known = ", ".join(PROTOCOLS.values())
        raise FilterError(f"--protocol {text}: must be one of {known}, or a number up to 255 (GRE is 47)")
    return _PROTOCOL_NAMES[name]


def _reason(text: str) -> str:
    # The table shows reasons with spaces.
    name = re.sub(r"[-\s]+", "_", text.strip().lower())
    if name in _REASONS:
        return name
    near = nearest(name, _REASONS)
    raise FilterError(f"{text!r} is no reason{f'; did you mean {near}?' if near else f': it is one of {_known()}'}")


def _known() -> str:
    return ", ".join(_REASONS)


def _namespace(text: str) -> str:
    if not _NAMESPACE.fullmatch(text):
        hint = "for a pod, use --pod" if "/" in text else "a namespace has lower-case letters, digits and '-'"
        raise FilterError(f"-n {text}: no namespace has this name: {hint}")
    return text


def _pod(text: str) -> str:
    return _object("--pod", "pod", text)


def _policy(text: str) -> str:
    return _object("--policy", "policy", text)


def _object(option: str, kind: str, text: str) -> str:
    namespace, slash, name = text.rpartition("/")
    if (slash and not _NAMESPACE.fullmatch(namespace)) or not _NAME.fullmatch(name):
        raise FilterError(f"{option} {text}: no {kind} has this name: write NAME or NAMESPACE/NAME, in lower case")
    return text


def _end(text: str) -> str:
    """Read a pod, an address or a network. Addresses are written as the records have them."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    # Records have no zones.
    bare = re.sub(r"%[^/]*", "", bare) if ":" in bare else bare
    try:
        found = ipaddress.ip_network(bare, strict=False)
    except ValueError:
        if _LIKE_ADDRESS.fullmatch(bare):
            raise FilterError(f"{text!r} is neither an address nor a network such as 10.0.0.0/8 or fd00::/64") from None
        return _object("--from or --to", "pod", text)
    if isinstance(found, ipaddress.IPv6Network) and found.prefixlen >= 96 and found[0].ipv4_mapped:
        found = ipaddress.IPv4Network((int(found[0].ipv4_mapped), found.prefixlen - 96))
    return str(found) if "/" in bare else str(found.network_address)


def _subject(text: str) -> str:
    return _object("--subject", "pod", text)


def _service(text: str) -> str:
    return _object("--service", "Service", text)


def _network(text: str) -> str:
    if not _LIKE_ADDRESS.fullmatch(text.strip("[]")):
        raise FilterError(f"--cidr {text}: must be an address or a network such as 10.0.0.0/8; for a pod, use --pod")
    return _end(text)


def _node(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise FilterError(f"--node {text}: no node has this name: it has lower-case letters, digits, '-' and '.'")
    return text


def _workload(text: str) -> str:
    kind, slash, name = text.rpartition("/")
    if not _NAME.fullmatch(name) or "/" in kind or (slash and not kind):
        raise FilterError(f"--workload {text}: write NAME or KIND/NAME, such as Deployment/web")
    if kind.lower() == "pod":
        raise FilterError(f"--workload {text}: for a pod, use --pod {name}")
    if slash and not kind[0].isupper() and kind not in _KINDS:
        hint = f"for a workload in one namespace, use -n {kind} --workload {name}"
        raise FilterError(f"--workload {text}: a kind begins with a capital letter, as in Deployment/web; {hint}")
    return f"{kind.lower()}{slash}{name}"


def _id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise FilterError(f"--id {text}: must be RING-NUMBER, as `.id` of a record and the last column of -o wide are")
    return text


def _label(text: str) -> str:
    key, given, value = text.replace("==", "=", 1).partition("=")
    if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
        raise FilterError(f"-l {text}: must be KEY or KEY=VALUE; give -l again for another label")
    return f"{key}{given}{value}"


_READERS: Final = {
    "namespaces": _namespace,
    "pods": _pod,
    "sources": _end,
    "destinations": _end,
    "protocols": _protocol,
    "labels": _label,
    "policies": _policy,
    "reasons": _reason,
    "subjects": _subject,
    "workloads": _workload,
    "services": _service,
    "nodes": _node,
    "networks": _network,
    "ids": _id,
}
_OPTIONS: Final = {
    "namespaces": "--namespace", "pods": "--pod", "subjects": "--subject", "workloads": "--workload",
    "sources": "--from", "destinations": "--to", "networks": "--cidr", "services": "--service", "nodes": "--node",
    "verdicts": "--verdict", "directions": "--direction", "ports": "--port", "protocols": "--protocol",
    "labels": "--label", "policies": "--policy", "reasons": "--reason", "clusters": "--cluster", "ids": "--id",
}  # fmt: skip
