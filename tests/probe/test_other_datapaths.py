"""The look for another datapath when the kernel does not answer it."""

from __future__ import annotations

import dataclasses
import errno
import threading
from pathlib import Path
from typing import cast

import pytest

from probe import other_datapaths
from probe.node.netlink import Device, NodeNetwork
from probe.other_datapaths import OtherDatapaths
from probe.settings import Settings


class Network:
    """A node with Cilium's device, on which so many reads are interrupted."""

    def __init__(self, interrupted: int) -> None:
        self.interrupted = interrupted

    def devices(self) -> list[Device]:
        self.interrupted -= 1
        if self.interrupted >= 0:
            raise OSError(errno.EINTR, "interrupted dump")
        return [Device(7, "cilium_host", ethernet=True)]

    def filters(self, _index: int, _parent: int) -> list[object]:
        return []


def others_on(network: Network, folder: Path, monkeypatch: pytest.MonkeyPatch) -> OtherDatapaths:
    monkeypatch.setattr(other_datapaths, "_FIRST_PERIOD_S", 0)
    settings = dataclasses.replace(Settings(), pin_dir=folder / "pins", cni_conf_dir=folder / "conf")
    return OtherDatapaths(settings, cast(NodeNetwork, network))


def test_an_interrupted_first_look_does_not_say_that_nobody_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = others_on(Network(interrupted=3), tmp_path, monkeypatch)
    assert others.first_look(threading.Event())
    assert "Cilium" in (others.problem() or "")


def test_a_kernel_that_never_answers_lets_nobody_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = others_on(Network(interrupted=1000), tmp_path, monkeypatch)
    with pytest.raises(OSError, match="interrupted"):
        others.first_look(threading.Event())


def test_a_stop_ends_the_first_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others, stop = others_on(Network(interrupted=1000), tmp_path, monkeypatch), threading.Event()
    stop.set()
    assert not others.first_look(stop)


def test_an_interrupted_later_look_keeps_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(interrupted=0)
    others = others_on(network, tmp_path, monkeypatch)
    assert others.first_look(threading.Event())
    network.interrupted = 1
    assert others.look()
