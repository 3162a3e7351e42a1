"""Who sees which records: unsure is no, and no foreign record in a million."""

from __future__ import annotations

import random
import threading

import msgspec
import pytest

from enrich.runtime.token_gate import ALLOWED, FORBIDDEN, UNAUTHENTICATED, UNKNOWN, TokenGate
from streams.observing.choice import Choice
from streams.observing.filters import Filters
from streams.web.viewers import Everybody, TokenViewer, sees, sees_both
from streams.web.watcher import MAX_UNDECIDED, MAX_UNDECIDED_BYTES, Watcher
from tests.streams.web.records import make_flow
from tests.waiting import until


class Rights:
    """A viewer with the rights of a table; a namespace that it lacks is undecided."""

    cluster = asker = ""

    def __init__(self, **rights: bool) -> None:
        self.rights = {"": False, **rights}

    def status(self) -> int:
        return ALLOWED

    def may_see(self, namespace: str) -> bool | None:
        return self.rights.get(namespace)


@pytest.mark.parametrize(
    ("source", "destination", "seen", "both"),
    [
        ("shop", "shop", True, True),
        ("shop", "bank", True, False),
        ("bank", "shop", True, False),
        ("bank", "bank", False, False),
        ("shop", "", True, True),
        ("", "bank", False, False),
        ("", "", False, False),
        ("unasked", "shop", True, None),
        ("unasked", "bank", None, False),
        ("unasked", "", None, None),
    ],
)
def test_one_allowed_end_shows_a_record(source: str, destination: str, seen: bool | None, both: bool | None) -> None:
    viewer = Rights(shop=True, bank=False)
    flow = make_flow(source=source, destination=destination)
    assert sees(viewer, flow) is seen
    assert sees_both(viewer, flow) is both


def test_the_right_for_all_namespaces_shows_everything() -> None:
    viewer = Rights()
    viewer.rights[""] = True
    for flow in (make_flow(source="", destination=""), make_flow(source="a", destination="b")):
        assert sees(viewer, flow) is sees_both(viewer, flow) is True
    assert sees(Everybody(), make_flow()) is True


def test_records_of_another_cluster_are_never_shown_whatever_their_namespace() -> None:
    viewer = Rights(shop=True)
    viewer.rights[""], viewer.cluster = True, "c1"
    for cluster, is_seen in (("c1", True), ("c2", False), ("", False)):
        flow = msgspec.structs.replace(make_flow(source="shop", destination="shop"), cluster=cluster)
        assert sees(viewer, flow) is sees_both(viewer, flow) is is_seen


def test_no_foreign_record_in_a_million() -> None:
    """Every record that is sent has an allowed end, and every record with one is counted."""
    chance = random.Random(17)  # noqa: S311 - not a secret
    names = ["shop", "team-a", "bank", "team-b", "kube-system", ""]
    allowed = {"shop", "team-a"}
    viewer = Rights(**{name: name in allowed for name in names if name})
    made = [make_flow(source=chance.choice(names), destination=chance.choice(names)) for _ in range(1000)]
    sent: list[bytes] = []

    def put(message: bytes) -> bool:
        sent.append(message)
        return True

    watcher = Watcher(Choice(Filters()), viewer, put, chance)
    expected, number = 0, 0
    for _ in range(1000):
        for flow in made:
            number += 1
            watcher.offer(msgspec.structs.replace(flow, id=f"r1-{number}"), b"")
            expected += flow.src.namespace in allowed or flow.dest.namespace in allowed
        watcher.send(0.0)
    intervals = [msgspec.json.decode(message.split(b"data: ", 1)[1]) for message in sent]
    assert number == 1_000_000
    assert sum(sum(one["counts"].values()) for one in intervals) == expected
    shown = [flow for one in intervals for flow in one["flows"]]
    assert len(shown) == 12_000
    assert all(allowed & {flow["src"].get("namespace"), flow["dest"].get("namespace")} for flow in shown)


def test_records_wait_for_the_answer_and_are_withheld_beyond_a_bound() -> None:
    viewer = Rights()
    sent: list[dict[str, object]] = []

    def put(message: bytes) -> bool:
        sent.append(msgspec.json.decode(message.split(b"data: ", 1)[1]))
        return True

    watcher = Watcher(Choice(Filters()), viewer, put)
    for number in range(MAX_UNDECIDED + 3):
        watcher.offer(make_flow(number), b"")
    watcher.send(0.0)
    assert (sent[0]["counts"], sent[0]["withheld"]) == ({}, 3)
    viewer.rights["shop"] = True
    watcher.send(1.0)
    assert (sent[1]["counts"], sent[1]["withheld"]) == ({"allow": MAX_UNDECIDED}, 0)


def test_records_that_wait_for_the_answer_are_bounded_in_bytes() -> None:
    sent: list[bytes] = []

    def put(message: bytes) -> bool:
        sent.append(message)
        return True

    watcher = Watcher(Choice(Filters()), Rights(), put)
    for number in range(3):
        watcher.offer(make_flow(number), b" " * (MAX_UNDECIDED_BYTES // 2))
    watcher.send(0.0)
    assert msgspec.json.decode(sent[0].split(b"data: ", 1)[1])["withheld"] == 1


def test_a_token_has_the_rights_that_the_gate_says() -> None:
    answers = {("t", ""): FORBIDDEN, ("t", "shop"): ALLOWED, ("t", "bank"): FORBIDDEN, ("x", ""): UNAUTHENTICATED}
    now = [1000.0]
    gate = TokenGate(lambda token, namespace: answers.get((token, namespace), UNKNOWN), lambda: now[0])
    viewer = TokenViewer(gate, "t", "")
    until(lambda: viewer.status() == ALLOWED)
    until(lambda: viewer.may_see("shop") is True)
    until(lambda: viewer.may_see("bank") is False)
    assert viewer.may_see("other") is None
    stranger = TokenViewer(gate, "x", "")
    until(lambda: stranger.status() == UNAUTHENTICATED)
    until(lambda: stranger.may_see("shop") is not None or stranger.status() == UNAUTHENTICATED)
    assert stranger.may_see("shop") is not True
    # A right that is taken away ends with the answer's life; meanwhile no record is lost.
    answers["t", "shop"] = FORBIDDEN
    now[0] += 61
    assert viewer.may_see("shop") in (True, False)
    until(lambda: viewer.may_see("shop") is False)


def test_an_old_answer_is_not_used_for_ever() -> None:
    now, answers = [1000.0], {"": FORBIDDEN, "shop": ALLOWED}
    gate = TokenGate(lambda _, namespace: answers[namespace], lambda: now[0])
    viewer = TokenViewer(gate, "t", "")
    until(lambda: viewer.may_see("shop") is True)
    answers["shop"] = UNKNOWN  # the API server is away
    now[0] += 61
    viewer.may_see("shop")
    until(lambda: gate.look("t", "shop") == UNKNOWN)
    assert viewer.may_see("shop") is None
    now[0] += 20
    assert viewer.may_see("shop") is None


def test_a_look_does_not_make_an_answer_younger() -> None:
    now, hang = [1000.0], threading.Event()
    hang.set()

    def review(_: str, __: str) -> int:
        hang.wait(60)
        return ALLOWED

    gate = TokenGate(review, lambda: now[0])
    viewer = TokenViewer(gate, "t", "")
    until(lambda: viewer.may_see("shop") is True)
    hang.clear()
    now[0] += 59
    assert viewer.may_see("shop") is True
    now[0] += 10
    assert viewer.may_see("shop") is TokenViewer(gate, "t", "").may_see("shop") is True
    now[0] += 7
    assert viewer.may_see("shop") is TokenViewer(gate, "t", "").may_see("shop") is None
    hang.set()
