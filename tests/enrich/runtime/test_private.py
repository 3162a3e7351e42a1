"""What names pods and connections is for root alone, also where an older version left it open."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from enrich.model import Pod
from enrich.runtime.private import make_private_folder
from enrich.runtime.process import only_instance
from probe.export.spool import Spool
from probe.ledger import Ledger
from probe.node.address_intervals import AddressIntervals
from probe.node.link_clock import LinkClock


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write_everything(run: Path, spool_folder: Path) -> None:
    """Write each file that a probe writes."""
    with only_instance(run / "probe.lock"):
        ledger = Ledger.open(run / "ledger")
        ledger.number_of("set", "a")
        ledger.close()
        intervals = AddressIntervals("node", run / "address-intervals", lambda _: None, LinkClock())
        intervals.start("cluster")
        intervals.update({1: Pod("shop", "web", "u", {}, ("10.0.0.1",), "node")}, 1)
        Spool(spool_folder).close()


@pytest.mark.parametrize("exists", [False, True])
def test_the_probes_files_are_private(tmp_path: Path, *, exists: bool) -> None:
    run, spool = tmp_path / "run", tmp_path / "state" / "spool"
    if exists:
        write_everything(run, spool)
        for path in (*run.iterdir(), *spool.iterdir()):
            path.chmod(0o644)
        run.chmod(0o755)
        spool.chmod(0o755)
    write_everything(run, spool)
    assert {path.name for path in run.iterdir()} == {"probe.lock", "ledger", "address-intervals"}
    assert len(list(spool.iterdir())) >= 2
    assert {mode(run), mode(spool)} == {0o700}
    modes = {path.name: oct(mode(path)) for path in (*run.iterdir(), *spool.iterdir())}
    assert modes == dict.fromkeys(modes, oct(0o600))


def test_a_folder_of_everybody_keeps_its_mode(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    make_private_folder(shared)
    assert mode(shared) == 0o1777
    before = mode(Path("/run"))
    make_private_folder(Path("/run"))
    assert mode(Path("/run")) == before
