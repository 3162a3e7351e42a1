"""What the probe's settings mean together."""

from __future__ import annotations

from typing import Literal

import pytest

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
