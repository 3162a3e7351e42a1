"""Generations of different layouts take over from one another, both ways: an upgrade, and the rollback after it."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from netns import listen, open_socket

import bpf as sources
from enrich.wire.batch import VERDICT
from probe.kernel import bpf, description, generations
from probe.kernel.description import Description, converted
from probe.kernel.generations import generation_name
from probe.kernel.layout import MAPS, Config, MapLayout
from tests.kernel.rig import Rig
from tests.kernel.takeover import Traffic, make_pods, restart
from tests.waiting import until

pytestmark = pytest.mark.kernel

_LONGER = {"connection": "u64 last_ns;", "deny_window": "u64 first_ns;", "verdict": "__u64 time_ns;"}
"""Structs that get another first field, so that all of theirs are elsewhere, and what is the first one."""


def longer(dtype: np.dtype[np.void]) -> np.dtype[np.void]:
    return np.dtype([("newcomer", "<u8"), *dtype.descr])


@contextlib.contextmanager
def other_version(folder: Path) -> Iterator[None]:
    """Have probes that start now be of a version whose connections, windows and verdicts have another layout."""
    shutil.copytree(sources.ROOT, folder / "bpf")
    for header in ("event.h", "layout.h"):
        text = (folder / "bpf" / header).read_text()
        for struct, first in _LONGER.items():
            text = text.replace(f"struct {struct} {{\n\t{first}", f"struct {struct} {{\n\t__u64 newcomer;\n\t{first}")
        # Like 0.1.0, it has no limits.
        text = text.replace("CONFIG_WORDS = 16", "CONFIG_WORDS = CONFIG_LOGGING + 1")
        (folder / "bpf" / header).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "POLICY_SOURCE", folder / "bpf" / "policy.c")
        for name in ("connections", "deny_windows_0", "deny_windows_1", "floods_0", "floods_1"):
            patch.setitem(MAPS, name, MapLayout(MAPS[name].kind, MAPS[name].key, longer(MAPS[name].value)))
        patch.setattr(description, "OWN", Description("v0", longer(VERDICT), MAPS))
        patch.setattr(generations, "VERSION", "v0")
        yield


def test_fields_are_found_by_name() -> None:
    values = np.zeros(2, VERDICT)
    values["endpoint"], values["source"] = (7, 8), 9
    there = converted(values, longer(VERDICT))
    assert there["newcomer"].tolist() == [0, 0]
    assert (converted(there, VERDICT) == values).all()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("own", "family"), [("tcx", 4), ("clsact", 6)], indirect=["own"])
def test_another_layout_takes_over_under_traffic_and_back(own: Rig, family: int, tmp_path: Path) -> None:
    client, server = make_pods(own)
    traffic = Traffic(client, server, family)
    listening = listen(server, family, 80)
    connection = open_socket(client, family, socket.SOCK_STREAM)
    connection.connect((server.address(family), 80))
    accepted, _ = listening.accept()

    def goes_on() -> None:
        connection.sendall(b"x")
        assert accepted.recv(1) == b"x"
        asked = traffic.answered
        until(lambda: traffic.answered > asked + 20)

    verdicts = []
    try:
        goes_on()
        with other_version(tmp_path / "other"):
            restart(own)
            own.apply()
            goes_on()
            verdicts.append(own.drain())
            assert {path.name for path in own.pins.iterdir()} == {"links", generation_name(own.sizes)}
            assert generation_name(own.sizes).startswith("v0-")
            value_size = bpf.map_info(own.maps["connections"].fd).value_size
            assert value_size == MAPS["connections"].value.itemsize
            assert bpf.map_info(own.maps["config"].fd).max_entries <= Config.LIMIT_ALLOWED
        restart(own)
        own.apply()
        goes_on()
    finally:
        traffic.stop()
        for one in (listening, connection, accepted):
            one.close()
    own.windows.rotate()
    own.windows.rotate()
    verdicts.append(own.drain())
    traffic.check(np.concatenate(verdicts))
    assert {path.name for path in own.pins.iterdir()} == {"links", generation_name(own.sizes)}
