"""The desk does not wait for ever for a probe that says nothing any more."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from tests.custody import desk
from tests.custody.desk import Desk
from tests.custody.script import NODES, Script


@pytest.mark.timeout(20)
def test_a_probe_that_says_nothing_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_PATIENCE_S", 0.01)
    log = tmp_path / "probe.log"
    log.touch()
    nodes = {
        name: SimpleNamespace(name=name, away=threading.Event(), probes=[SimpleNamespace(log=log)]) for name in NODES
    }
    ground: Any = SimpleNamespace(api=Mock(), nodes=nodes, script=Script())
    with pytest.raises(RuntimeError, match=r"\['n1', 'n2'\] have not said"):
        Desk(ground, 1)
