"""ICMP errors about connections that are opened while another table of connections takes over.

An error is not sent again. Each must pass although the programs that judge it belong to the generation that has not
seen the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.kernel.errors import Site, call
from tests.kernel.rig import FAMILIES, Rig, of
from tests.kernel.takeover import restart

pytestmark = pytest.mark.kernel

_CARRIED, _BEFORE, _BETWEEN, _AFTER = 4000, 4001, 4002, 4003
"""The client's ports: when a connection was opened, as seen from the move of the client's interface."""


@pytest.fixture
def site(own: Rig) -> Iterator[Site]:
    made = Site(own)
    yield made
    made.close()


def _each_hook(site: Site, monkeypatch: pytest.MonkeyPatch, look: Callable[[str], None]) -> None:
    """Call ``look`` with "egress" and "ingress", each before that hook of the client gets the new program, then with
    ""."""
    attach, index = site.rig.attachments._attach, site.client.index
    left = ["egress", "ingress"]

    def seen(device: int, program: str, hook: Any) -> bool:
        is_first = device == index and left and program == f"pod_{left[0]}"
        if is_first:
            look(left.pop(0))
        done = attach(device, program, hook)
        if is_first and not left:
            look("")
        return done

    monkeypatch.setattr(site.rig.attachments, "_attach", seen)


def _knows(site: Site, port: int) -> bool:
    """Return whether this generation's table has connections of the client's port."""
    return bool(np.any(site.rig.flows_of("a/client")["local_port"] == port))


@pytest.mark.parametrize("own", ["tcx", "clsact"], indirect=True)
def test_an_error_finds_a_connection_of_either_generation(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.allow(53)
    restart(site.rig, CONNECTIONS=1 << 17)
    # Not before the start, which may compile for more than the 30 s that a connection without an answer lives.
    carried = {family: call(site, family, own=_CARRIED) for family in FAMILIES}
    opened: list[tuple[int, bytes]] = []

    def look(hook: str) -> None:
        port = {"egress": _BEFORE, "ingress": _BETWEEN, "": _AFTER}[hook]
        opened.extend((family, call(site, family, own=port)) for family in FAMILIES)
        for family in FAMILIES:
            quoted = [one for of_family, one in opened if of_family == family]
            assert site.hears(family, quoted, carried[family]) == [True] * len(quoted)
        # So the programs of each generation have found in the other's table what they let pass.
        assert (_knows(site, _BEFORE), _knows(site, _BETWEEN)) == (False, hook != "egress")

    _each_hook(site, monkeypatch, look)
    site.rig.apply()
    assert len(opened) == 6
    assert not of(site.rig.seen(), verdict="deny")
    # All connections are carried over: the other table is not looked into any more, nor kept by this generation.
    assert site.rig.maps["other_table"].get(bytes(4)) is None
    assert _knows(site, _BEFORE)
    for family, quoted in opened:
        assert site.hears(family, [quoted], carried[family]) == [True]


@pytest.mark.parametrize("own", ["tcx"], indirect=True)
def test_an_error_follows_the_policy_of_the_programs_that_judge_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is in the other table, as allowed; what takes over denies it."""
    site.allow(53, 80)
    restart(site.rig, CONNECTIONS=1 << 17)
    good = {family: call(site, family, 80, _CARRIED) for family in FAMILIES}
    passed: list[tuple[str, bool]] = []

    def look(hook: str) -> None:
        for family in FAMILIES if hook != "ingress" else ():
            quoted = call(site, family, own=_BEFORE)
            passed.append((hook, site.hears(family, [quoted], good[family])[0]))

    _each_hook(site, monkeypatch, look)
    site.allow(80)
    assert passed == [("egress", True)] * 2 + [("", False)] * 2
