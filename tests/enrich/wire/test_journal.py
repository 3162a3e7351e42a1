"""The form of the journal: what is encoded is decoded as it was, and what no writer makes is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest

from enrich.label_selector import Operator, Requirement, Selector
from enrich.model import (
    Action,
    AdminNetworkPolicy,
    ClusterRule,
    IPBlock,
    Namespace,
    NetworkPolicy,
    Node,
    Peer,
    PolicyPort,
    Protocol,
    Rule,
    Service,
    Tier,
)
from enrich.network_logging import LogClass, LoggingSpec, NetworkLogging
from enrich.wire.journal import (
    GAP,
    HEARTBEAT,
    MAX_AHEAD_NS,
    ContainerPort,
    JournalEntry,
    JournalError,
    Profile,
    decode_entry,
    encode_entry,
    number_of,
    raw_state,
    state_of,
    unreadable_entry,
)
from enrich.wire.journal_objects import JOURNALED, Journaled

WEB = Selector((Requirement("app", Operator.IN, ("web",)),))
POLICY = NetworkPolicy(
    "shop", "db", "u1", WEB,
    ingress=(Rule((Peer(pods=WEB), Peer(ip_block=IPBlock("10.0.0.0/8", ("10.1.0.0/16",)))),
                  (PolicyPort(Protocol.TCP, "pg"), PolicyPort(Protocol.UDP, 1, 9))),),
    audit=True, logging="true",
)  # fmt: skip
STATES: tuple[Journaled, ...] = (
    POLICY,
    AdminNetworkPolicy(
        "a", "u2", Tier.ADMIN, 7, WEB, Selector(), egress=(ClusterRule(Action.DENY, (Peer(nodes=WEB),)),)
    ),
    Namespace("shop", "u3", {"b": "2", "a": "1"}, deny_logging="true"),
    Node("n1", "u4", {}, ("10.0.0.1", "fd00::1"), "z", ("10.244.0.0/24",), ("10.244.0.0",)),
    Service("shop", "web", "u5", ("10.96.0.7",), (), ((6, 80),), ((6, 30080),)),
    NetworkLogging("default", "u6", LoggingSpec(LogClass(log=True, delegate=True))),
)
PROFILE = Profile(namespace="shop", workload_kind="Deployment", workload_name="web", labels={"b": "2", "a": "1"},
                  ports=(ContainerPort("http", 80, 6),))  # fmt: skip


def entry_of(made: Journaled | Profile, **more: Any) -> JournalEntry:
    """Return an entry with a state."""
    where = ((made.namespace, number_of(made)), "") if isinstance(made, Profile) else (made.key, made.uid)
    (namespace, name), uid = where
    fields = {"cluster": "c1", "kind": type(made).__name__, "namespace": namespace, "name": name, "uid": uid,
              "seen_ns": 5, "object": raw_state(made)}  # fmt: skip
    return JournalEntry(**{**fields, **more})


def changed(entry: JournalEntry, **more: Any) -> tuple[bytes, bytes]:
    """Return value and key of an entry after some fields of its JSON were changed."""
    return orjson.dumps({**orjson.loads(encode_entry(entry)), **more}), entry.key


@pytest.mark.parametrize("made", [*STATES, PROFILE], ids=lambda made: type(made).__name__)
def test_every_kind_is_decoded_as_it_was(made: Journaled | Profile) -> None:
    entry = entry_of(made, resource_version="812", generation=3, changed_by="kubectl-client-side-apply")
    read = decode_entry(encode_entry(entry), entry.key)
    assert (read.resource_version, read.generation, read.changed_by) == ("812", 3, "kubectl-client-side-apply")
    assert state_of(read) == made
    assert type(state_of(read)) is type(made)


def test_equal_states_have_equal_bytes() -> None:
    other = Namespace("shop", "u3", {"a": "1", "b": "2"}, deny_logging="true")
    assert bytes(raw_state(other)) == bytes(raw_state(STATES[2]))
    assert bytes(raw_state(Namespace("shop", "u3", {"a": "1", "b": "3"}))) != bytes(raw_state(STATES[2]))


def test_a_gap_a_heartbeat_and_an_end_have_no_state() -> None:
    for entry in (
        JournalEntry(cluster="c1", kind=GAP, seen_ns=9, since_ns=4),
        JournalEntry(cluster="c1", kind=HEARTBEAT, seen_ns=9),
        JournalEntry(cluster="c1", kind="NetworkPolicy", namespace="shop", name="db", uid="u1", seen_ns=9, gone=True),
    ):
        read = decode_entry(encode_entry(entry), entry.key)
        assert read == entry
        assert state_of(read) is None


def test_what_cannot_be_read_of_a_policy_is_kept_as_it_is() -> None:
    odd = NetworkPolicy("shop", "db", "u1", Selector((Requirement("not a key!", Operator.IN, ()),)))
    entry = entry_of(odd)
    assert state_of(decode_entry(encode_entry(entry), entry.key)) == odd


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"v": 2}, "version 2"),
        ({"cluster": "c2"}, "not that of the entry"),
        ({"since_ns": 6}, "later than seen_ns"),
        ({"gone": True}, "has a name, and a state"),
        ({"object": None}, "has a name, and a state"),
        ({"refused": "too large"}, "has a name, and a state"),
        ({"object": None, "gone": True, "refused": "too large"}, "has a name, and a state"),
        ({"uid": "other"}, "another object's"),
        ({"seen_ns": -1}, "seen_ns"),
        ({"resource_version": "a b"}, "resource_version"),
        ({"changed_by": "x" * 129}, "changed_by"),
        ({"object": {"namespace": "shop", "name": "web", "uid": "u1", "pods": {}}}, "another object's"),
        ({"object": {"namespace": "shop", "name": "db", "uid": "u1"}}, "pods"),
        ({"object": [[[]]]}, "object"),
    ],
)  # fmt: skip
def test_an_entry_that_no_writer_makes_is_refused(more: dict[str, Any], why: str) -> None:
    with pytest.raises(JournalError, match=why):
        decode_entry(*changed(entry_of(POLICY), **more))


@pytest.mark.parametrize("cidr", ["10.0.0.1/8", "10.0.0.0", "all", "fe80::1%eth0/128"])
def test_a_block_that_no_parser_writes_is_refused(cidr: str) -> None:
    policy = NetworkPolicy("shop", "db", "u1", WEB, (Rule((Peer(ip_block=IPBlock(cidr)),)),))
    with pytest.raises(JournalError):
        raw_state(policy)
    raw = msgspec.json.encode(policy)
    with pytest.raises(JournalError):
        decode_entry(*changed(entry_of(POLICY), object=orjson.loads(raw)))


@pytest.mark.parametrize("ip", ["10.0.0.256", "::1%lo", "010.0.0.1"])
def test_an_address_that_no_parser_writes_is_refused(ip: str) -> None:
    for made in (Node("n1", "u4", {}, (ip,)), Service("shop", "web", "u5", (ip,))):
        with pytest.raises(JournalError):
            raw_state(made)


def test_a_profile_under_another_number_is_refused() -> None:
    other = msgspec.structs.replace(PROFILE, host_network=True)
    with pytest.raises(JournalError, match="not that of the profile"):
        decode_entry(*changed(entry_of(PROFILE), object=msgspec.to_builtins(other)))


def test_a_state_that_no_broker_would_take_is_refused() -> None:
    rule = Rule((Peer(pods=WEB),) * 30_000)
    with pytest.raises(JournalError, match="more than 900000"):
        raw_state(NetworkPolicy("shop", "db", "u1", WEB, (rule,)))


def test_unknown_kinds_and_deep_values_are_refused() -> None:
    entry = JournalEntry(cluster="c1", kind="Secret", name="x", seen_ns=1, gone=True)
    with pytest.raises(JournalError, match="no kind Secret"):
        decode_entry(encode_entry(entry), entry.key)
    for value in (b"", b"\xff", b"[" * 5000, b'{"object":' + b"[" * 5000):
        with pytest.raises(JournalError):
            decode_entry(value, b"")


def test_an_entry_from_the_future_is_refused() -> None:
    entry = JournalEntry(cluster="c1", kind=HEARTBEAT, seen_ns=MAX_AHEAD_NS + 7_000_000_000)
    assert decode_entry(encode_entry(entry), entry.key, 7_000_000_000) == entry
    with pytest.raises(JournalError, match="302 s in the future"):
        decode_entry(encode_entry(entry), entry.key, 5_000_000_000)


def test_of_an_entry_that_cannot_be_read_the_key_tells_the_object() -> None:
    found = unreadable_entry(b"arn:aws:eks:eu/prod/NetworkPolicy/shop/db", 5)
    assert found is not None
    assert (found.cluster, found.namespace, found.name, found.seen_ns) == ("arn:aws:eks:eu/prod", "shop", "db", 5)
    with pytest.raises(JournalError):
        state_of(found)
    assert unreadable_entry(b"c1/Profile/shop/0123456789abcdef", 5) is None
    assert unreadable_entry(b"\xff", 5) is None


@pytest.mark.parametrize("kind", JOURNALED)
def test_of_no_kind_an_unreadable_entry_has_a_state(kind: str) -> None:
    found = unreadable_entry(f"c1/{kind}//x".encode(), 5)
    assert found is not None
    with pytest.raises(JournalError):
        state_of(found)
