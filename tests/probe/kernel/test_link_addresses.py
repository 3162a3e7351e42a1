"""What becomes of an interface whose link-layer address has no place in the map."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from probe.kernel import link_addresses
from probe.kernel.layout import LINK_ADDRESS, Config
from probe.kernel.link_addresses import LinkAddresses
from probe.kernel.maps import Maps
from probe.node.netlink import NodeNetwork


class Table:
    """The map, with room for one interface."""

    def __init__(self) -> None:
        self.content: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> Any:
        return np.frombuffer(self.content[key], LINK_ADDRESS)[0] if key in self.content else None

    def set(self, key: bytes, value: bytes) -> None:
        if key not in self.content and self.content:
            raise OSError(errno.E2BIG, "Argument list too long")
        self.content[key] = value

    def drop(self, key: bytes) -> None:
        self.content.pop(key, None)


class MapsInMemory:
    def __init__(self) -> None:
        self.table, self.any_frame = Table(), 0

    def __getitem__(self, _name: str) -> Table:
        return self.table

    def config(self, word: Config) -> int:
        assert word is Config.ANY_FRAME
        return self.any_frame


@pytest.fixture
def maps() -> MapsInMemory:
    return MapsInMemory()


@pytest.fixture
def addresses(maps: MapsInMemory, monkeypatch: pytest.MonkeyPatch) -> LinkAddresses:
    monkeypatch.setattr(link_addresses, "get_link", lambda index: SimpleNamespace(index=index, master=0))
    monkeypatch.setattr(link_addresses, "_addresses_behind", lambda _link: (bytes(6), bytes(16)))
    network = SimpleNamespace(run=lambda call, *args: call(*args))
    return LinkAddresses(cast(Maps, maps), cast(NodeNetwork, network))


def test_a_full_map_closes_the_interface_that_it_has_no_place_for(addresses: LinkAddresses) -> None:
    assert addresses.learn(7, fix=True) is None
    assert "no place" in (addresses.learn(8, fix=True) or "")
    assert addresses.learn(7, fix=True) is None
    addresses.forget(7)
    assert addresses.learn(8, fix=True) is None


def test_an_address_is_fixed_once_its_pod_is_known_and_not_if_the_index_is_anothers(
    addresses: LinkAddresses, maps: MapsInMemory
) -> None:
    assert not addresses.is_fixed(7)
    addresses.learn(7, fix=False)
    assert not addresses.is_fixed(7)
    addresses.learn(7, fix=True)
    assert addresses.is_fixed(7)
    addresses.learn(7, fix=False, anew=True)
    assert not addresses.is_fixed(7)
    maps.any_frame = 1
    assert addresses.is_fixed(7)
