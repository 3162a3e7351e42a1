"""Profiles: equal for all pods of a workload, different where a policy can tell pods apart."""

from __future__ import annotations

import msgspec

from enrich.history.left_out import LEFT_OUT
from enrich.history.profile import all_left_out, is_left_out, left_out_of, number_of, profile_of
from enrich.model import NamedPort, Owner, Pod, Protocol
from enrich.wire.journal import Profile

DB = Owner("Deployment", "db")


def _pod(name: str, labels: dict[str, str]) -> Pod:
    return Pod("data", name, f"uid-{name}", labels, ports=(NamedPort("postgres", 5432, Protocol.TCP),))


def test_pods_of_two_rollouts_have_one_profile() -> None:
    old = profile_of(_pod("db-1", {"app": "db", "pod-template-hash": "7f9c"}), DB)
    new = profile_of(_pod("db-2", {"pod-template-hash": "8a0b", "app": "db"}), DB)
    assert number_of(old) == number_of(new)
    assert old.labels == {"app": "db"}


def test_a_label_or_a_workload_that_differs_makes_another_profile() -> None:
    profiles = [
        profile_of(_pod("db-1", {"app": "db"}), DB),
        profile_of(_pod("db-1", {"app": "db", "tier": "1"}), DB),
        profile_of(_pod("db-1", {"app": "db"}), Owner("StatefulSet", "db")),
        profile_of(_pod("db-1", {"app": "db"}), None),
    ]
    assert len({number_of(profile) for profile in profiles}) == len(profiles)


def test_a_number_survives_the_way_over_the_wire() -> None:
    profile = profile_of(_pod("db-1", {"b": "2", "a": "1"}), DB)
    read = msgspec.json.decode(msgspec.json.encode(profile), type=Profile)
    assert number_of(read) == number_of(profile)


def test_a_star_stands_for_any_rest() -> None:
    assert is_left_out("batch.kubernetes.io/controller-uid")
    assert not is_left_out("batch.example.com/controller-uid")
    assert is_left_out("build", ["build"])


def test_a_profile_says_what_it_was_made_without_if_that_is_not_the_default() -> None:
    pod = _pod("db-1", {"app": "db", "team": "x"})
    usual, same, other = (
        profile_of(pod, DB, left_out) for left_out in (LEFT_OUT, LEFT_OUT[::-1], ("team", "pod-template-hash"))
    )
    assert left_out_of(usual) == LEFT_OUT
    assert number_of(same) == number_of(usual)
    assert b"left_out" not in msgspec.json.encode(usual)
    assert left_out_of(other) == ("pod-template-hash", "team")
    # A pod without the label is another pod than one whose label was left out.
    bare = profile_of(_pod("db-1", {"app": "db"}), DB)
    assert (bare.labels, other.labels) == ({"app": "db"}, {"app": "db"})
    assert number_of(bare) != number_of(other)
    assert all_left_out([usual, other]) == {*LEFT_OUT, "team"}
    assert all_left_out([]) == set()
