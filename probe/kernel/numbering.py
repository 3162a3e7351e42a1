"""The numbers that the policy maps refer to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from probe.kernel.layout import ENDPOINT_SIDES, PEER, POLICY_ENTRY, POLICY_KEY, PORT_ENTRY, PORT_KEY, Array, distinct

_Entries = Mapping[bytes, bytes]


def references(
    policy_entries: _Entries, port_entries: _Entries, addresses: _Entries, endpoints: _Entries
) -> dict[str, set[int]]:
    """Return the numbers of the ledger that the maps have, by kind."""
    policy_keys = _array(policy_entries, POLICY_KEY)
    policies = _array(policy_entries.values(), POLICY_ENTRY)
    peers = _array(addresses.values(), PEER)
    ends = _array(endpoints.values(), ENDPOINT_SIDES)["side"]
    port_keys = _array(port_entries, PORT_KEY)
    ports = _array(port_entries.values(), PORT_ENTRY)
    port_lists = (port_keys["port_list"], policies["port_list"], ends["defaults"]["port_list"])
    return {
        "identity": distinct(policy_keys["identity"], peers["identity"]),
        "set": distinct(policy_keys["set"], ends["set"]),
        "port_list": distinct(*port_lists),
        "rule": distinct(policies["rule"], ports["rule"], ends["defaults"]["rule"]),
        "endpoint": distinct(ends["number"]),
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
