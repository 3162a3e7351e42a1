"""A layout that lacks what a takeover reads is refused when it is read, not when a field is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enrich.wire.batch import VERDICT
from probe.kernel import description
from probe.kernel.description import Description, UnreadableError
from probe.kernel.ends_layout import ENDS_MAPS, TRAFFIC, TRAFFIC_MAP
from probe.kernel.layout import INDEX, MAPS, VERSION, WORD, MapLayout


def _read(monkeypatch: pytest.MonkeyPatch, traffic: np.dtype[Any]) -> Description:
    """Read a description of connections to be reported whose maps are pinned as it says."""
    maps = {**MAPS, TRAFFIC_MAP: MapLayout(ENDS_MAPS[TRAFFIC_MAP].kind, INDEX, traffic)}
    monkeypatch.setattr(description, "_candidates", lambda _: [(Description("v7", VERDICT, maps), {})])
    monkeypatch.setattr(description, "_check_pins", lambda *_: None)
    return description.read(Path("/none"))[0]


def test_connections_to_be_reported_have_a_state_and_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _read(monkeypatch, TRAFFIC).maps[TRAFFIC_MAP].value == TRAFFIC
    for damaged in (
        WORD, np.dtype([("verdict", VERDICT)]), np.dtype([("state", "u1")]),
        np.dtype([("state", "u1"), ("verdict", WORD)]),
    ):  # fmt: skip
        with pytest.raises(UnreadableError, match="connections to be reported"):
            _read(monkeypatch, damaged)


def test_connections_are_reported_of_a_generation_of_this_version_whose_description_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(description, "_check_pins", lambda *_: None)
    layout, sizes = description.read(tmp_path / f"{VERSION}-01234567")
    assert (layout.verdict, layout.maps, sizes) == (VERDICT, {**MAPS, **ENDS_MAPS}, {})
