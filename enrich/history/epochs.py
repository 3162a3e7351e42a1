"""Which policies a node had in force at a time, as it said itself on the status topic.

The journal knows when its writer learned of a version of a policy, and a node learns of it earlier or later. The node
says exactly when it switched (:mod:`enrich.wire.in_force`, docs/decisions/047). An example, of one ring::

    change 7, switched 10:00:00.100: shop/web version 3f...
    change 8, switched 10:04:59.730: shop/web version 9c...

So the version 3f... decided everything that this ring logged between the two, even if the journal has another version
for that time. The end of a statement is known only if the next one of the same probe is there. Nothing is said of other
times: before the first statement, behind the last one, and where one is missing, because a probe ended or a record was
lost.

What is read here can only take answers away: a record agrees if *some* policies near its time decide what it says, and
:meth:`Epochs.at` leaves out those that its node did not have then. So a forged statement on the status topic can make a
true record disagree, but cannot make a false one agree.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from enrich.history.timeline import Segment
from enrich.model import Pod, Policy
from enrich.policy import selectors
from enrich.policy.decide import selects
from enrich.policy.matching import PolicyView
from enrich.wire.flow_text import nanoseconds
from enrich.wire.in_force import InForceRecord, PolicyVersion, version_of
from enrich.wire.journal_objects import encode_state

Versions = frozenset[PolicyVersion]
_SLACK_NS: Final = 1_000_000_000
"""A program reads the clock shortly before the epoch, and the offset of that clock is corrected in steps."""
_MAX_STATEMENTS: Final = 200_000
_MAX_VERSIONS: Final = 1_000_000
"""In all sets. Statements beyond it are left out, so that nothing is said of their times."""
_MAX_DISTINCT: Final = 200_000
"""Versions that are kept once for all sets, about half a kilobyte each. All of this takes about 250 MB at most."""
_MAX_AT_ONCE: Final = 64
"""Statements about the time of one record. A node does not switch so often, but a forger could make any number."""


class _Statement(NamedTuple):
    """What one record says."""

    change: int
    epoch: int
    since_ns: int
    """The policies may be in force from here on."""
    sure_ns: int
    """They surely are from here on."""
    versions: Versions | None
    """None if the record does not list all of them."""
    until_ns: int = 0
    """They surely are not from here on; 0: not known."""


class Epochs:
    """What the nodes of one cluster have said. Records are added in the order of the topic."""

    def __init__(self) -> None:
        self._rings: dict[str, list[_Statement]] = {}
        self._interned: dict[Versions, Versions] = {}
        self._distinct: dict[PolicyVersion, PolicyVersion] = {}
        self._statements = self._versions = 0

    def __bool__(self) -> bool:
        return bool(self._rings)

    @property
    def is_full(self) -> bool:
        """Whether statements were left out, because there were too many."""
        return (
            self._statements >= _MAX_STATEMENTS
            or self._versions >= _MAX_VERSIONS
            or len(self._distinct) >= _MAX_DISTINCT
        )

    def add(self, record: InForceRecord, written_ns: int) -> None:
        """Add a record. ``written_ns``: when a worker wrote it; by then it was true.

        Workers may write a record twice. A probe that starts counts from 1 again, and says first what it found."""
        if self.is_full:
            return
        statements = self._rings.setdefault(record.ring, [])
        last = statements[-1] if statements else None
        try:
            switched = record.in_force and tuple(nanoseconds(at.removesuffix("Z").encode()) for at in record.in_force)
        except ValueError:
            switched = None
        since, sure = switched or (0, written_ns)
        versions = None if record.left_out else self._intern(one.as_version() for one in record.policies)
        if last is not None:
            # The epoch of a ring never falls, and is another after each switch: what is behind was said before.
            is_behind = record.epoch < last.epoch or (record.epoch == last.epoch and switched)
            if is_behind or (record.change, record.epoch, versions) == (last.change, last.epoch, last.versions):
                return
            # A change without a switch is said to be sure when it was written, which may be after the next switch. Of
            # what is left out here, nothing is known: the last statement keeps an unknown end.
            if sure < last.sure_ns:
                return
            if record.change == last.change + 1:
                # Without a switch, the change does not concern the kernel, and was made at some time since the last.
                since = since or last.since_ns
                statements[-1] = last._replace(until_ns=sure)
        made = _Statement(record.change, record.epoch, since, sure, versions)
        self._statements += 1
        statements.append(made)

    def _intern(self, versions: Iterable[PolicyVersion]) -> Versions:
        made = frozenset(self._distinct.setdefault(one, one) for one in versions)
        if made not in self._interned:
            self._interned[made] = made
            self._versions += len(made)
        return self._interned[made]

    def at(self, ring: str, since_ns: int, until_ns: int) -> frozenset[Versions] | None:
        """Return the sets of policies that a ring's programs may have used in a time; None if that is not known."""
        statements = self._rings.get(ring, ())
        since, until = since_ns - _SLACK_NS, until_ns + _SLACK_NS
        first = place = bisect_right(statements, since, key=lambda one: one.sure_ns) - 1
        found, is_covered = set[Versions](), False
        while 0 <= place < len(statements) and statements[place].since_ns <= until:
            one = statements[place]
            if one.versions is None or not one.until_ns or place - first >= _MAX_AT_ONCE:
                return None
            found.add(one.versions)
            is_covered = is_covered or one.until_ns > until
            place += 1
        return frozenset(found) if is_covered else None


class Narrowing:
    """Leaves out the segments whose policies about a pod differ from those that its node had in force."""

    def __init__(self) -> None:
        self._versions: dict[int, tuple[Policy, PolicyVersion]] = {}

    def forget(self) -> None:
        """Forget the versions of policies, which are costly to make."""
        self._versions.clear()

    def possible(
        self, segments: Sequence[Segment], subjects: Sequence[Pod], chosen: Iterable[Versions]
    ) -> list[Segment] | None:
        """Return the segments whose policies about the subject are those that its node had in force.

        ``subjects``: the pods that the subject may have been; ``chosen``: what the node may have had. None if it cannot
        be said: if the node had a version that no segment has, if anything else than policies changed, which a node
        learns of at a time of its own, or if policies tell apart what the subject may have been.
        """
        views = [one.view for one in segments]
        if any((one.namespaces, one.nodes) != (views[0].namespaces, views[0].nodes) for one in views[1:]):
            return None
        namespace = subjects[0].namespace
        there = [self._all(view, namespace) for view in views]
        applied = [{self._applying(view, pod) for pod in subjects} for view in views]
        if any(len(one) > 1 for one in applied):
            return None
        own = [one for part in applied for one in part]
        known, selecting = (Versions().union(*parts) for parts in (there, own))
        found = set[int]()
        for versions in chosen:
            about = {one for one in versions if one.namespace in {"", namespace}}
            # What the node had, and what is about the subject if it is there.
            right = [
                place
                for place, (all_there, applying) in enumerate(zip(there, own, strict=True))
                if applying <= versions and not (about & selecting) - all_there
            ]
            if not right or not about <= known:
                return None
            found.update(right)
        return [segment for place, segment in enumerate(segments) if place in found]

    def _all(self, view: PolicyView, namespace: str) -> Versions:
        return frozenset(
            self._version(one) for one in view.all_policies() if getattr(one, "namespace", "") in {"", namespace}
        )

    def _applying(self, view: PolicyView, pod: Pod) -> Versions:
        own = (one for one in view.policies.values() if one.namespace == pod.namespace)
        found: list[Policy] = [one for one in own if selectors.matches(one.pods, pod.labels)]
        found += [one for one in view.cluster_policies.values() if selects(view, one, pod)]
        return frozenset(map(self._version, found))

    def _version(self, policy: Policy) -> PolicyVersion:
        known = self._versions.get(id(policy))
        if known is None:
            made = PolicyVersion(type(policy).__name__, *policy.key, policy.uid, version_of(encode_state(policy)))
            known = self._versions[id(policy)] = policy, made
        return known[1]
