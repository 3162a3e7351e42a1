"""What is logged of real connections by each NetworkLogging and setting; what is not is cut in the kernel, and counted.

None of it changes what passes.
"""

from __future__ import annotations

import random
import socket
from typing import Any

import pytest
from netns import connects, gets_no_answer, listen, open_socket

from enrich.network_logging import NetworkLogging
from enrich.parse.metadata import DENY_LOGGING, LOGGING
from enrich.parse.objects import parse
from enrich.wire.batch import AGGREGATED, CUT, Verdict
from probe.kernel.layout import Config, Counter
from probe.policy.logging import KERNEL_BITS, LoggingDefaults
from tests.enrich.parse.test_network_logging import network_logging
from tests.kernel.rig import FAMILIES, Rig, Seen, both, of
from tests.kernel.takeover import restart

pytestmark = pytest.mark.kernel

ASKS = {LOGGING: "true"}
OFF: dict[str, bool] = {}
LOG, DELEGATE = {"log": True}, {"log": True, "delegate": True}
TO_SERVER = {"podSelector": {"matchLabels": {"app": "server"}}}
ONE_PORT = [{"ports": [{"port": 80}]}]


def put(rig: Rig, allow: dict[str, bool], deny: dict[str, bool]) -> None:
    """Create or replace the NetworkLogging, and have it applied."""
    made = parse(network_logging({"cluster": {"allow": allow, "deny": deny}}))
    assert isinstance(made, NetworkLogging)
    rig.logged.replace(NetworkLogging, [made])
    rig.apply()


def cut(rig: Rig) -> tuple[int, int]:
    """How many allowed connections and denied packets were cut."""
    counters = rig.maps.counters()
    return counters[Counter.CUT_ALLOWED], counters[Counter.CUT_DENIED]


def since(rig: Rig, before: tuple[int, int]) -> tuple[int, int]:
    now = cut(rig)
    return now[0] - before[0], now[1] - before[1]


class Shop:
    """A server whose policy allows port 80, and a client that tries ports 80 and 81."""

    def __init__(self, rig: Rig, family: int = 4) -> None:
        self.rig, self.family = rig, family
        self.client, self.server = both(rig, "a/client", 1), both(rig, "a/server", 2)
        rig.policy("a/in", **TO_SERVER, ingress=ONE_PORT)
        rig.apply()

    def traffic(self) -> list[Seen]:
        """Make both connections, and return the verdicts of the server. They pass or not as policy says."""
        with listen(self.server, self.family, 80), listen(self.server, self.family, 81):
            assert connects(self.client, self.server.address(self.family), 80)
            assert gets_no_answer(self.client, self.server.address(self.family), 81)
        return of(self.rig.seen(), subject="a/server")


def kinds(seen: list[Seen]) -> set[str]:
    return {one.verdict for one in seen}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_class_is_logged_or_cut_and_counted_and_what_passes_is_the_same(rig: Rig, family: int) -> None:
    shop = Shop(rig, family)
    assert kinds(shop.traffic()) == {"allow", "deny"}
    for allow, deny, expected in (
        (OFF, OFF, set()),
        (LOG, OFF, {"allow"}),
        (OFF, LOG, {"deny"}),
        (LOG, LOG, {"allow", "deny"}),
    ):
        put(rig, allow, deny)
        epoch, before = rig.maps.config(Config.EPOCH), cut(rig)
        assert kinds(shop.traffic()) == expected
        allowed, denied = since(rig, before)
        # The client's own end allows both connections by default.
        assert allowed == (0 if allow else 3)
        assert (denied > 0) == (not deny)
        put(rig, deny, allow)
        assert rig.maps.config(Config.EPOCH) == epoch, "no policy changes"


def test_without_an_object_the_settings_say_what_is_logged(rig: Rig) -> None:
    shop = Shop(rig)
    for logging, expected in (("denied", {"deny"}), ("none", set()), ("all", {"allow", "deny"})):
        rig.logging.defaults = LoggingDefaults(logging)
        rig.apply()
        assert kinds(shop.traffic()) == expected


def test_an_allow_that_no_policy_decided_is_logged_if_the_setting_says_so(rig: Rig) -> None:
    shop = Shop(rig)
    put(rig, LOG, LOG)
    shop.traffic()
    for default_allowed in (True, False):
        rig.logging.defaults = LoggingDefaults(default_allowed=default_allowed)
        rig.apply()
        with listen(shop.server, 4, 80):
            assert connects(shop.client, shop.server.address(4), 80)
            assert connects(rig.node, shop.server.address(4), 80)
        seen = rig.seen()
        assert {one.reason for one in of(seen, verdict="allow")} == (
            {"no_policy", "policy", "node"} if default_allowed else {"policy"}
        )


def test_a_delegated_allow_names_only_the_policies_that_ask(rig: Rig) -> None:
    shop = Shop(rig)
    rig.policy("a/by-pod", **TO_SERVER, ingress=[{"from": [{"podSelector": {}}], "ports": [{"port": 80}]}])
    put(rig, DELEGATE, OFF)
    assert shop.traffic() == [], "no policy asks"
    for annotated, expected in (
        ({"a/in"}, ("a/in",)),
        ({"a/in", "a/by-pod"}, ("a/by-pod", "a/in")),
        ({"a/by-pod"}, ("a/by-pod",)),
    ):
        rig.policy("a/in", ASKS if "a/in" in annotated else {}, **TO_SERVER, ingress=ONE_PORT)
        rig.policy("a/by-pod", ASKS if "a/by-pod" in annotated else {LOGGING: "True"}, **TO_SERVER,
                   ingress=[{"from": [{"podSelector": {}}], "ports": [{"port": 80}]}])  # fmt: skip
        epoch = rig.maps.config(Config.EPOCH)
        rig.apply()
        assert rig.maps.config(Config.EPOCH) == epoch, "an annotation changes no policy"
        [seen] = shop.traffic()
        assert (seen.verdict, seen.reason, seen.policies) == ("allow", "policy", expected)


def test_a_delegated_allow_of_a_cluster_policy(rig: Rig) -> None:
    shop = Shop(rig)
    rule = {"action": "Accept", "from": [{"namespaces": {}}], "name": "all"}
    spec: dict[str, Any] = {"tier": "Admin", "priority": 1, "ingress": [rule]}
    rig.cluster_policy("everyone", **spec)
    put(rig, DELEGATE, OFF)
    with listen(shop.server, 4, 81):
        assert connects(shop.client, shop.server.address(4), 81)
        assert of(rig.seen(), subject="a/server") == []
        rig.cluster_policy("everyone", ASKS, **spec)
        rig.apply()
        assert connects(shop.client, shop.server.address(4), 81)
        [seen] = of(rig.seen(), subject="a/server")
    assert seen.policies == ("/everyone",)


def test_a_new_policy_that_asks_is_logged_from_its_first_connection_on(rig: Rig) -> None:
    shop = Shop(rig)
    put(rig, DELEGATE, OFF)
    for number in range(5):
        rig.policy("a/in", ASKS, **TO_SERVER, ingress=[{"ports": [{"port": 80}, {"port": 9000 + number}]}])
        rig.policy(f"a/more-{number}", ASKS, **TO_SERVER, ingress=[{"ports": [{"port": 80}]}])
        rig.apply()
        [seen] = shop.traffic()
        assert f"a/more-{number}" in seen.policies


def test_a_delegated_deny_is_logged_for_subjects_in_namespaces_that_ask(rig: Rig) -> None:
    shop = Shop(rig)
    other = both(rig, "b/server", 3)
    rig.policy("b/none", ingress=[])
    put(rig, OFF, DELEGATE)

    def denied() -> set[str]:
        shop.traffic()
        with listen(other, 4, 80):
            assert gets_no_answer(shop.client, other.address(4), 80)
            assert gets_no_answer(shop.client, shop.server.address(4), 81)
        return {one.subject for one in rig.seen()}

    assert denied() == set()
    # The subject counts, not the client: that is in the namespace a.
    rig.namespace("b", {DENY_LOGGING: "true"})
    rig.apply()
    assert denied() == {"b/server"}
    rig.namespace("b", {DENY_LOGGING: "yes"})
    rig.namespace("a", {DENY_LOGGING: "true"})
    rig.apply()
    assert denied() == {"a/server"}


def test_audited_connections_are_in_the_class_of_denied_ones(rig: Rig) -> None:
    shop = Shop(rig)
    rig.policy("a/in", {"kubeweir.io/mode": "audit"}, **TO_SERVER, ingress=ONE_PORT)
    for allow, deny, expected in ((LOG, OFF, set()), (OFF, LOG, {"audit"})):
        put(rig, allow, deny)
        with listen(shop.server, 4, 81):
            assert connects(shop.client, shop.server.address(4), 81)
        assert kinds(of(rig.seen(), subject="a/server")) == expected


def test_denials_that_are_cut_are_written_for_alerts_if_the_setting_says_so(rig: Rig) -> None:
    shop = Shop(rig)
    rig.logging.defaults = LoggingDefaults("none", marks_denied=True)
    rig.apply()
    before = cut(rig)
    with listen(shop.server, 4, 80), listen(shop.server, 4, 81):
        assert connects(shop.client, shop.server.address(4), 80)
        assert gets_no_answer(shop.client, shop.server.address(4), 81)
    rig.windows.rotate()
    rig.windows.rotate()
    found = rig.drain()
    assert set((found["verdict"] & 0x7F).tolist()) == {Verdict.DENY}
    assert (found["flags"] & CUT).all()
    assert since(rig, before)[1] == 0
    # Those that are logged have no mark, and a flood keeps it.
    rig.logging.defaults = LoggingDefaults("denied", marks_denied=True)
    rig.apply()
    shop.traffic()
    rig.logging.defaults = LoggingDefaults("none", marks_denied=True)
    rig.maps.configure(Config.POD_DENIED_FLOWS, 0)
    rig.apply()
    assert gets_no_answer(shop.client, shop.server.address(4), 81)
    rig.windows.rotate()
    rig.windows.rotate()
    floods = [one for one in rig.drain() if one["flags"] & AGGREGATED]
    assert [int(one["flags"]) for one in floods] == [AGGREGATED | CUT]


def test_every_packet_is_written_or_cut(rig: Rig) -> None:
    """Connections and denied packets add up, also while logging is switched."""
    shop = Shop(rig)
    chance, before, written = random.Random(3), cut(rig), [0, 0]  # noqa: S311 - not a secret
    rounds, packets = 12, 7
    for _ in range(rounds):
        put(rig, chance.choice([OFF, LOG]), chance.choice([OFF, LOG]))
        with listen(shop.server, 4, 80):
            assert connects(shop.client, shop.server.address(4), 80)
        with open_socket(shop.client, 4, socket.SOCK_DGRAM) as here:
            for _ in range(packets):
                here.sendto(b"x", (shop.server.address(4), 81))
        _add(rig, written)
    rig.windows.rotate()
    rig.windows.rotate()
    _add(rig, written)
    allowed, denied = since(rig, before)
    # Both ends of the connection that passes, and the client's end of the flow that does not.
    assert written[0] + allowed == rounds * 3
    assert written[1] + denied == rounds * packets
    assert min(*written, allowed, denied) > 0


def _add(rig: Rig, written: list[int]) -> None:
    found = rig.drain()
    is_deny = (found["verdict"] & 0x7F) == Verdict.DENY
    written[0] += int((~is_deny).sum())
    written[1] += int(found["count"][is_deny].sum())


@pytest.mark.parametrize("own", ["tcx"], indirect=True)
def test_a_generation_that_takes_over_knows_the_last_valid_object(own: Rig) -> None:
    shop = Shop(own)
    own.policy("a/in", ASKS, **TO_SERVER, ingress=ONE_PORT)
    put(own, DELEGATE, LOG)
    word = own.maps.config(Config.LOGGING)
    restart(own, POLICY_ENTRIES=512)
    assert own.maps.config(Config.LOGGING) == word & ~KERNEL_BITS, "all is logged until the lists are made"
    own.logged.replace(NetworkLogging, [NetworkLogging("default", "", invalid="spec: must be an object")])
    own.apply()
    assert own.maps.config(Config.LOGGING) == word
    assert kinds(shop.traffic()) == {"allow", "deny"}


@pytest.mark.parametrize("own", ["tcx"], indirect=True)
def test_a_generation_that_returns_knows_the_last_valid_object_and_has_an_epoch_of_its_own(own: Rig) -> None:
    Shop(own)
    put(own, DELEGATE, LOG)
    restart(own, POLICY_ENTRIES=512)
    put(own, OFF, DELEGATE)
    word, epoch = own.maps.config(Config.LOGGING), own.maps.config(Config.EPOCH)
    # The first generation is not removed yet, because its ring has not been read.
    restart(own)
    assert own.maps.config(Config.LOGGING) == word & ~KERNEL_BITS
    # Both write to the same connections: a verdict of the other one must never count as current.
    assert own.maps.config(Config.EPOCH) > epoch
    restart(own)
    assert own.maps.config(Config.LOGGING) == word & ~KERNEL_BITS
    own.logged.replace(NetworkLogging, [NetworkLogging("default", "", invalid="spec: must be an object")])
    own.apply()
    assert own.maps.config(Config.LOGGING) == word
