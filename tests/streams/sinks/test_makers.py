"""The tables of makers: a kind of output without a maker stops the service at its start."""

from __future__ import annotations

import pytest

from streams.alerts.model import OUTPUT_KINDS, AlertOutput
from streams.sinks.makers import checked_makers


def test_a_kind_without_a_maker_and_a_maker_without_a_kind_are_refused() -> None:
    assert checked_makers("routes", ["file"], {"file": 1}) == {"file": 1}
    with pytest.raises(RuntimeError, match=r"routes: kinds of outputs .*; only one side has syslog"):
        checked_makers("routes", ["file", "syslog"], {"file": 1})
    with pytest.raises(RuntimeError, match="only one side has stdout"):
        checked_makers("routes", ["file"], {"file": 1, "stdout": 2})


def test_the_kinds_of_alert_outputs_are_the_fields_of_an_output() -> None:
    assert {*OUTPUT_KINDS, "name"} == set(AlertOutput.__struct_fields__)
