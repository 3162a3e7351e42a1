"""For random policies, an older connection goes on if and only if a new one would be allowed, whoever speaks first."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from netns import MOMENT_S, PATIENCE_S, Space, connects, listen, open_socket

from probe.kernel.layout import Config
from tests.kernel.rig import FAMILIES, Rig, both, of
from tests.kernel.tracking import tracking

pytestmark = [pytest.mark.kernel, pytest.mark.property]

PODS = ("one", "two")
PORTS = (80, 81)
Rules = list[dict[str, Any]] | None
"""Of one direction; None: no policy isolates the pod in it."""
Older = tuple[str, int, int, bool, bool]
"""Who opens the connection, family, port, whether the answerer speaks first, whether its entry is forgotten later."""


def _rules(side: str) -> st.SearchStrategy[Rules]:
    peers = st.sampled_from([{}, *({side: [{"podSelector": {"matchLabels": {"app": name}}}]} for name in PODS)])
    ports = st.sampled_from([{}, *({"ports": [{"port": port}]} for port in PORTS)])
    rule = st.builds(lambda peer, port: {**peer, **port}, peers, ports)
    return st.none() | st.lists(rule, max_size=2)


_older = st.tuples(
    st.sampled_from(PODS), st.sampled_from(FAMILIES), st.sampled_from(PORTS), st.booleans(), st.booleans()
)
_policies = st.fixed_dictionaries({name: st.tuples(_rules("from"), _rules("to")) for name in PODS})


def test_an_older_connection_goes_on_where_a_new_one_would_be_allowed(rig: Rig) -> None:
    @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
    @given(_policies, st.lists(_older, min_size=1, max_size=4))
    def agree(policies: dict[str, tuple[Rules, Rules]], older: list[Older]) -> None:
        with tracking(rig.node), ExitStack() as stack:
            _check(rig, policies, older, stack)
        rig.reset()

    agree()


def _check(rig: Rig, policies: dict[str, tuple[Rules, Rules]], older: list[Older], stack: ExitStack) -> None:
    pods = {name: both(rig, f"a/{name}", number) for number, name in enumerate(PODS, 1)}
    listening = {
        (name, family, port): stack.enter_context(listen(pods[name], family, port))
        for name in PODS for family in FAMILIES for port in PORTS
    }  # fmt: skip
    ends = [_connected(pods, listening, one, stack) for one in older]
    for name, (ingress, egress) in policies.items():
        kinds = {"Ingress": ingress, "Egress": egress}
        rules = {kind.lower(): rules for kind, rules in kinds.items() if rules is not None}
        if rules:
            types = [kind for kind, given_ in kinds.items() if given_ is not None]
            rig.policy(f"a/{name}", podSelector={"matchLabels": {"app": name}}, policyTypes=types, **rules)
    rig.apply(older=True)
    allowed = [_is_allowed(rig, pods[one[0]], pods[_other(one[0])].address(one[1]), one[2]) for one in older]
    # Denied ones first: without its entry, a connection may go on where policy allows the packet's own direction.
    for forgotten in (False, True):
        if forgotten:
            _forget_entries(rig)
        for one, passes, (here, there) in zip(older, allowed, ends, strict=True):
            if (one[4] and passes) is forgotten:
                first, second = (there, here) if one[3] else (here, there)
                assert [_says(first, second, passes), _says(second, first, passes)] == [passes, passes], one


def _is_allowed(rig: Rig, source: Space, address: str, port: int) -> bool:
    """Return whether a new connection is established. One that nobody denied may take its time."""
    rig.drain()
    if connects(source, address, port, MOMENT_S):
        return True
    return not of(rig.seen(), verdict="deny", port=port) and connects(source, address, port)


def _connected(
    pods: dict[str, Space], listening: dict[tuple[str, int, int], socket.socket], one: Older, stack: ExitStack
) -> tuple[socket.socket, socket.socket]:
    opener, family, port, _, _ = one
    here = stack.enter_context(open_socket(pods[opener], family, socket.SOCK_STREAM))
    here.connect((pods[_other(opener)].address(family), port))
    there = stack.enter_context(listening[_other(opener), family, port].accept()[0])
    assert _says(here, there, passes=True)
    assert _says(there, here, passes=True)
    return here, there


def _other(name: str) -> str:
    return PODS[1 - PODS.index(name)]


def _says(sender: socket.socket, receiver: socket.socket, passes: bool) -> bool:
    sender.send(b"x")
    receiver.settimeout(PATIENCE_S if passes else MOMENT_S)
    try:
        return receiver.recv(100) != b""
    except TimeoutError:
        return False


def _forget_entries(rig: Rig) -> None:
    """Remove every connection's entry. A later epoch of the same side clears the cache of recent connections."""
    for key in rig.maps["connections"].entries()[0]:
        rig.maps["connections"].drop(key.tobytes())
    rig.maps.configure(Config.EPOCH, rig.maps.config(Config.EPOCH) + 2)
