"""The numbers that the policy maps refer to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from probe.kernel.layout import ENDPOINT_SIDES, PEER, POLICY_ENTRY, POLICY_KEY, PORT_ENTRY, PORT_KEY, Array

_Entries = Mapping[bytes, bytes]


def highest_numbers(
    policy_entries: _Entries, port_entries: _Entries, addresses: _Entries, endpoints: _Entries
) -> dict[str, int]:
    """Return the highest number of each kind in the maps, so that a ledger that was lost does not reuse one."""
    policy_keys = _array(policy_entries, POLICY_KEY)
    policies = _array(policy_entries.values(), POLICY_ENTRY)
    peers = _array(addresses.values(), PEER)
    ends = _array(endpoints.values(), ENDPOINT_SIDES)["side"]
    port_keys = _array(port_entries, PORT_KEY)
    ports = _array(port_entries.values(), PORT_ENTRY)
    port_lists = (port_keys["port_list"], policies["port_list"], ends["defaults"]["port_list"])
    return {
        "identity": _highest(policy_keys["identity"], peers["identity"]),
        "set": _highest(policy_keys["set"], ends["set"]),
        "port_list": _highest(*port_lists),
        "rule": _highest(policies["rule"], ports["rule"], ends["defaults"]["rule"]),
        "endpoint": _highest(ends["number"]),
    }


def sets_of_endpoints(endpoints: _Entries) -> frozenset[int]:
    """Return the policy sets that endpoints refer to, on either side."""
    return frozenset(_array(endpoints.values(), ENDPOINT_SIDES)["side"]["set"].flat)


def port_lists_of(policy_entries: _Entries, endpoints: _Entries) -> frozenset[int]:
    """Return the port lists that policy entries and the defaults of endpoints refer to."""
    defaults = _array(endpoints.values(), ENDPOINT_SIDES)["side"]["defaults"]
    policies = _array(policy_entries.values(), POLICY_ENTRY)
    return frozenset(policies["port_list"].flat) | frozenset(defaults["port_list"].flat)


def _array(values: Iterable[bytes], dtype: np.dtype[np.void]) -> Array:
    """Return entries as an array; one of zeros if there are none."""
    return np.frombuffer(b"".join(values) or bytes(dtype.itemsize), dtype)


def _highest(*numbers: Array) -> int:
    return int(max(array.max() for array in numbers))
