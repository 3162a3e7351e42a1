"""The plugin in the text of a CNI configuration: what is added, what stays, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from probe.cni.conflist import ConfigurationError, with_plugin, without_plugin

ENTRY = {"type": "weir-cni", "socket": "/run/kubeweir/cni.sock", "wait": 10, "onFailure": "closed"}
LIST: dict[str, Any] = {
    "cniVersion": "1.0.0", "name": "net", "disableCheck": True,
    "plugins": [{"type": "ptp", "mtu": 1400}, {"type": "portmap", "capabilities": {"portMappings": True}}],
}  # fmt: skip


def added(config: Any) -> Any:
    text = with_plugin(json.dumps(config), ENTRY)
    return None if text is None else json.loads(text)


def test_the_plugin_comes_last_and_nothing_else_changes() -> None:
    assert added(LIST) == {**LIST, "plugins": [*LIST["plugins"], ENTRY]}
    assert without_plugin(json.dumps(added(LIST))) == json.dumps(LIST, indent=2) + "\n"


def test_adding_it_twice_changes_nothing() -> None:
    assert added(added(LIST)) is None
    assert without_plugin(json.dumps(LIST)) is None


def test_a_changed_setting_replaces_the_entry_where_it_is() -> None:
    """Another plugin was added behind ours, as service meshes do it."""
    old = {**ENTRY, "wait": 5}
    mesh = {"type": "mesh"}
    found = added({**LIST, "plugins": [*LIST["plugins"], old, mesh]})
    assert found["plugins"] == [*LIST["plugins"], ENTRY, mesh]


def test_two_entries_become_one() -> None:
    assert added({**LIST, "plugins": [ENTRY, *LIST["plugins"], ENTRY]})["plugins"].count(ENTRY) == 1


def test_a_single_plugin_becomes_a_list_of_two() -> None:
    single = {"cniVersion": "0.3.1", "name": "net", "type": "multus", "delegates": [{"type": "ptp"}]}
    plugin = {"type": "multus", "delegates": [{"type": "ptp"}]}
    assert added(single) == {"cniVersion": "0.3.1", "name": "net", "plugins": [plugin, ENTRY]}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"plugins"', '{"plugins": []}', '{"name": "n", "plugins": {}}', '{"name": 1, "type": "a"}',
     '{"name": "n", "plugins": [1]}', '{"name": "n", "plugins": [{"type": 1}]}', '{"name": "n", "plugins": []}',
     '{"name": "n", "plugins": [{"type": "weir-cni"}]}', '{"name": "n"}'],
)  # fmt: skip
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        with_plugin(text, ENTRY)
