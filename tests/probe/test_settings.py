"""What the probe's settings mean together."""

from __future__ import annotations

from typing import Literal

import pytest

import streams.settings
from enrich.runtime.settings import SettingsError, load
from probe.settings import Settings


@pytest.mark.parametrize(
    ("unknown", "cni", "on_failure", "closed"),
    [
        ("auto", "on", "closed", True),
        ("auto", "on", "open", False),
        ("auto", "off", "closed", False),
        ("closed", "off", "closed", True),
        ("closed", "on", "open", True),
        ("open", "on", "closed", False),
    ],
)
def test_unknown_interfaces_are_closed_by_default_where_the_plugin_closes_pods(
    unknown: Literal["auto", "closed", "open"],
    cni: Literal["on", "off"],
    on_failure: Literal["closed", "open"],
    closed: bool,
) -> None:
    assert Settings(unknown=unknown, cni=cni, cni_on_failure=on_failure).closes_unknown() is closed


def test_a_preset_sets_what_gke_documents_and_a_setting_that_is_given_wins() -> None:
    plain, preset = load(Settings, {}), load(Settings, {"WEIR_PRESET": "gke", "WEIR_LOGGING": ""})
    assert (plain.logging, plain.limit_allowed, plain.limit_denied, plain.deny_source_port) == ("all", 0, 0, True)
    assert (preset.logging, preset.log_default_allow) == ("none", False)
    assert (preset.limit_allowed, preset.limit_denied) == (500, 500)
    assert (preset.deny_window, preset.deny_source_port) == (5.0, False)
    given = load(Settings, {"WEIR_PRESET": "gke", "WEIR_LIMIT_ALLOWED": "0", "WEIR_LOGGING": "all"})
    assert (given.limit_allowed, given.limit_denied, given.logging) == (0, 500, "all")
    sinks = load(streams.settings.Settings, {"WEIR_PRESET": "gke", "WEIR_FILE_KEEP": "3"})
    assert (sinks.file_path, sinks.file_max_bytes) == ("/var/log/network/policy_action.log", 10_000_000)
    assert sinks.file_keep == 3


def test_a_preset_that_is_not_known_is_refused() -> None:
    with pytest.raises(SettingsError, match="WEIR_PRESET='aks': must be none, gke"):
        load(Settings, {"WEIR_PRESET": "aks"})
