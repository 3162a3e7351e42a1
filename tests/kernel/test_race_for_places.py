"""Two processors that empty one place, with so much time between their steps that they surely meet."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import bpf as sources
from probe.kernel.layout import Config
from tests.kernel.places import check_places
from tests.kernel.rig import FAMILIES, SMALL, Rig, both
from tests.kernel.test_shares import scan

pytestmark = [pytest.mark.kernel, pytest.mark.one_mode]

_DELETE = "places.delete(&number)"
_START = "#define KUBEWEIR_PLACES_H\n"
_WAIT = """
static __always_inline void wait_a_little(void)
{
#pragma clang loop unroll(disable)
	for (int turn = 0; turn < 300; turn++)
		bpf_ktime_get_ns();
}
"""
"""Some microseconds, in which another processor empties the place and enters a connection of its own."""
_LIMIT = 8
"""Connections of the pod: four places of its own, and as many that are lent."""


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Rig]:
    """Return a rig whose programs wait just before they delete a place."""
    folder = tmp_path / "bpf"
    shutil.copytree(sources.ROOT, folder)
    text = (folder / "places.h").read_text()
    assert (text.count(_DELETE), text.count(_START)) == (1, 1)
    text = text.replace(_DELETE, f"(wait_a_little(), {_DELETE})").replace(_START, _START + _WAIT)
    (folder / "places.h").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "POLICY_SOURCE", folder / "policy.c")
        made = Rig(tmp_path, "tcx", sizes=SMALL)
    made.maps.configure(Config.POD_CONNECTIONS, _LIMIT)
    yield made
    made.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_no_connection_loses_its_place_to_a_processor_that_was_late(slow: Rig, family: int) -> None:
    pod = both(slow, "a/pod", 1)
    slow.apply()
    to = {4: ("10.244.9.1", "10.244.9.2", "10.244.9.3"), 6: ("fd44::991", "fd44::992", "fd44::993")}[family]
    threads = [threading.Thread(target=scan, args=(pod, family, address, 8000)) for address in to]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(slow.flows_of("a/pod")) > 0
    check_places(slow, _LIMIT)
