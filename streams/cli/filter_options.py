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
from streams.cli.filters import Filters

_REASONS: Final = tuple(reason.name.lower() for reason in Reason)
_PROTOCOL_NAMES: Final = {**{name: name for name in PROTOCOLS.values()}, "ipv6-icmp": "icmpv6", "icmp6": "icmpv6"}
_WITHOUT_PORTS: Final = frozenset({"icmp", "icmpv6"})
# Patterns, so a * may stand in each.
_NAMESPACE: Final = re.compile(r"[a-z0-9*]([a-z0-9*-]{0,61}[a-z0-9*])?")
_NAME: Final = re.compile(r"[a-z0-9*]([a-z0-9.*-]{0,251}[a-z0-9*])?")
_LABEL_KEY: Final = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9*]([A-Za-z0-9_.*-]*[A-Za-z0-9*])?)?")
_LIKE_ADDRESS: Final = re.compile(r"[0-9.]+(/[0-9.]*)?|[^*]*:[^*]*")


class FilterError(ValueError):
    """An option can fit no flow. The message says which, why, and what to write."""


def read_filters(options: Mapping[str, Sequence[Any]]) -> Filters:
    """Return the filters that some options mean; keys are the fields of Filters. Raises :class:`FilterError`."""
    found = dict(options)
    for name, read in _READERS.items():
        found[name] = [read(text) for text in options.get(name, ())]
    filters = Filters(**found)
    if filters.ports and filters.protocols and _WITHOUT_PORTS.issuperset(filters.protocols):
        raise FilterError(f"--port and --protocol {filters.protocols[0]} fit no flow together: ICMP has no ports")
    if filters.reasons and set(filters.reasons) <= set(filters.except_reasons):
        raise FilterError("--except-reason leaves out every --reason, so that no flow fits")
    return filters


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
    "except_reasons": _reason,
}
