"""Which policy versions an epoch stands for is told once for each change, bounded, until it is in the spool."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from enrich.label_selector import Selector
from enrich.model import NetworkPolicy, Pod
from enrich.wire.in_force import MAX_POLICIES, MAX_WAITING, version_of
from enrich.wire.journal import raw_state
from enrich.wire.tally import KernelTally, Tally
from probe.kernel.plan import Installed
from probe.policies_in_force import PoliciesOfEpochs
from probe.policy.compiler import Subject
from probe.policy.ruleset import AppliedPolicy, digest

WEB = NetworkPolicy("shop", "web", "uid-web", Selector())
DATABASE = NetworkPolicy("shop", "db", "uid-db", Selector())


def note(noted: PoliciesOfEpochs, epoch: int, *policies: NetworkPolicy, **changes: Any) -> None:
    pod = Pod("shop", "web-0", "uid", {}, node="n1")
    applied = tuple(AppliedPolicy(policy, audited=False, digest=policy.name) for policy in policies)
    done = Installed(0, 1, 0, 0, epoch, (10 * epoch, 10 * epoch + 1))
    noted.note(replace(done, **changes), [Subject(pod, applied, (), ""), Subject(pod, applied[:1], (), "")])


def test_a_change_is_told_once_with_the_versions_that_the_journal_has() -> None:
    noted = PoliciesOfEpochs()
    note(noted, 6, WEB, DATABASE)
    note(noted, 7, DATABASE, WEB)
    note(noted, 8, replace(WEB, egress=()), DATABASE)
    note(noted, 8, replace(WEB, egress=()), DATABASE, switched=None)
    first, second = noted.waiting()
    assert [(one.change, one.epoch, one.switched) for one in (first, second)] == [(1, 6, (60, 61)), (2, 8, (80, 81))]
    assert [(one.name, one.uid, one.version) for one in first.policies] == [
        ("db", "uid-db", version_of(raw_state(DATABASE))), ("web", "uid-web", version_of(raw_state(WEB)))
    ]  # fmt: skip
    assert [one.version for one in second.policies] == [
        version_of(raw_state(DATABASE)), version_of(raw_state(replace(WEB, egress=())))
    ]  # fmt: skip
    noted.forget((first,))
    assert noted.waiting() == (second,)
    noted.forget((first, second))
    assert noted.waiting() == ()


def test_a_change_that_the_kernel_need_not_know_has_no_time() -> None:
    noted = PoliciesOfEpochs()
    note(noted, 6, WEB)
    note(noted, 6, replace(WEB, logging="true"), switched=None)
    first, second = noted.waiting()
    assert (first.epoch, second.epoch, second.switched) == (6, 6, None)
    assert first.policies[0].version != second.policies[0].version
    assert digest(WEB) == digest(replace(WEB, logging="true")), "nothing is compiled anew, so there is no switch"


def test_a_node_without_policies_says_so_once() -> None:
    noted = PoliciesOfEpochs()
    note(noted, 1)
    note(noted, 2)
    (only,) = noted.waiting()
    assert (only.epoch, only.policies) == (1, ())


def test_a_state_that_does_not_fit_the_journal_has_no_version() -> None:
    noted = PoliciesOfEpochs()
    note(noted, 1, replace(WEB, logging="x" * 1_000_000))
    assert [one.version for one in noted.waiting()[0].policies] == [""]


def test_of_many_changes_the_last_wait_and_the_numbers_show_that_some_are_lost() -> None:
    noted = PoliciesOfEpochs()
    for epoch in range(3 * MAX_WAITING):
        note(noted, epoch, replace(WEB, uid=f"uid-{epoch}"))
    found = noted.waiting()
    assert [one.change for one in found] == list(range(2 * MAX_WAITING + 1, 3 * MAX_WAITING + 1))


def test_many_policies_with_long_names_leave_room_in_the_batch_and_are_counted() -> None:
    for size, most in ((3, MAX_POLICIES), (250, 400)):
        noted, policies = PoliciesOfEpochs(), [replace(WEB, name=f"{n:0{size}}") for n in range(1500)]
        for epoch in range(3):
            note(noted, epoch, *policies[epoch:])
        waiting = noted.waiting()
        assert len(waiting) < 3, "the next tally has the rest"
        assert 100 < len(waiting[0].policies) <= most
        assert waiting[0].left_out + len(waiting[0].policies) == 1500
        kernel = KernelTally(decided=(0, 0), written=0, waiting=0, ring=(0, 0), verdicts=0)
        encoded = msgspec.json.encode(Tally(at=1, every=1, kernel=kernel, in_force=waiting))
        assert len(encoded) < 150_000
        assert msgspec.json.decode(encoded, type=Tally).in_force == waiting
