"""Explains connections of the past: what policies said then, what has changed since, and what they say today.

The answer itself is :func:`enrich.explain.explanation.explain_connection`, on the state of the cluster as of a time. A
record shows the version of the policies that decided: the kernel has a version some time after the API server, and the
journal may learn of it before or after the kernel, so the versions around the record's time are asked until one says
what was recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from enrich.explain.explanation import UNKNOWN, EndReport, Explanation, explain_connection
from enrich.explain.one_end import EndDecision
from enrich.explain.query import EndQuery
from enrich.history.advice.suggestion import Suggestion, suggest
from enrich.history.comparing import AFTER_NS, BEFORE_NS
from enrich.history.moments import moment
from enrich.history.profile import is_left_out, left_out_of, named_ports
from enrich.history.stand_ins import Known, stand_in
from enrich.history.timeline import Scope, Timeline
from enrich.history.versions import Version
from enrich.model import Name, Pod
from enrich.wire.address_interval import AddressInterval
from enrich.wire.journal import Profile

SECOND_NS: Final = 1_000_000_000


class Change(msgspec.Struct, frozen=True):
    """A version of an object on which the answer depends, that was seen after the time of the answer."""

    kind: str
    namespace: str
    name: str
    what: str
    """created, changed or deleted."""
    at: str
    seconds_later: float
    by: str
    """The manager that the API server names for this version; empty if it names none."""

    @property
    def text(self) -> str:
        """The change in words."""
        named = f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"
        by = f" by {self.by}" if self.by else ""
        return f"{named} was {self.what} {_later(self.seconds_later)} later ({self.at}){by}"


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What the record says."""

    id: str
    timestamp: str
    direction: str
    verdict: str
    reason: str
    policies: tuple[tuple[str, str, str], ...] = ()
    """Kind, namespace and name of the policies that decided, or that isolate the pod."""


class PastExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer, as ``weir explain -o json`` prints it."""

    schema: int = 1
    at: str
    """The time whose policies are asked; a record's own, or that of the version that explains it."""
    record: Recorded | None = None
    agrees: bool | None = None
    """Whether the policies of the time say what was recorded; None if there is no record, or if that is not known."""
    then: Explanation
    changes: tuple[Change, ...] = ()
    today: Explanation | None = None
    """The same question to the newest policies; None if they are not known."""
    suggestion: Suggestion | msgspec.UnsetType = msgspec.UNSET
    """What would allow the connection by the newest policies, if that was asked."""


def explain_at(
    timeline: Timeline, pods: Mapping[Name, Pod], at_ns: int, now_ns: int, ends: tuple[EndQuery, EndQuery],
    notes: Iterable[str] = (),
) -> PastExplanation:  # fmt: skip
    """Return what the policies of a time say about a connection. ``pods`` are those of that time."""
    scopes = _scopes(pods, ends)
    then = _explain(timeline, scopes, pods, at_ns, ends, notes)
    changes = tuple(_changes(timeline, scopes, at_ns, now_ns))
    return PastExplanation(
        at=moment(at_ns), then=then, changes=changes, today=_today(timeline, scopes, pods, now_ns, ends)
    )


def explain_record(
    timeline: Timeline, candidates: Sequence[Mapping[Name, Pod]], record: Recorded, times: tuple[int, int],
    ends: tuple[EndQuery, EndQuery], notes: Iterable[str] = (),
) -> PastExplanation:  # fmt: skip
    """Return what the policies said that made a record.

    ``candidates``: the pods that the record's ends may have been, as far as their labels are known; ``times``: those of
    the record and of now."""
    at_ns, now_ns = times
    scopes = _scopes(candidates[0], ends)
    found = []
    for pods in candidates:
        for version_ns in _times_around(timeline, scopes, at_ns):
            then = _explain(timeline, scopes, pods, version_ns, ends, notes)
            agrees = _agrees(then, record)
            found.append((agrees, version_ns, then, pods))
            if agrees:
                break
    agreeing = [one for one in found if one[0]]
    chosen = agreeing or found
    agrees, version_ns, then, _ = chosen[0]
    if not agreeing and len({one[2].verdict for one in found if one[1] == at_ns}) > 1:
        text = "the labels that the pods had are not known, and the policies of that time tell them apart"
        then = unknown(ends, text, notes)
    # Of pods that the record does not tell apart, today's policies may.
    todays = [_today(timeline, scopes, one[3], now_ns, ends) for one in chosen]
    is_sure = all(one is not None and todays[0] is not None and one.verdict == todays[0].verdict for one in todays)
    return PastExplanation(
        at=moment(version_ns), record=record, agrees=None if then.verdict == UNKNOWN else agrees, then=then,
        changes=tuple(_changes(timeline, scopes, version_ns, now_ns)),
        today=todays[0] if is_sure else None,
    )  # fmt: skip


def unknown(ends: tuple[EndQuery, EndQuery], text: str, notes: Iterable[str] = ()) -> Explanation:
    """Return the explanation that says why there is no answer."""
    protocol = ends[1].protocol
    return Explanation(
        source=EndReport(UNKNOWN, ends[0].text), destination=EndReport(UNKNOWN, ends[1].text),
        protocol=protocol.name if protocol else "ICMP", port=int(ends[1].port) if ends[1].port.isdigit() else None,
        verdict=UNKNOWN, text=text, notes=tuple(notes),
    )  # fmt: skip


def _explain(
    timeline: Timeline, scopes: Sequence[Scope], pods: Mapping[Name, Pod], at_ns: int,
    ends: tuple[EndQuery, EndQuery], notes: Iterable[str],
) -> Explanation:  # fmt: skip
    if why := _why_unknown(timeline, scopes, pods, at_ns, ends):
        return unknown(ends, why, notes)
    view = replace(timeline.view_at(at_ns), pods=pods)
    return explain_connection(view, timeline.services_at(at_ns), *ends, notes)


def _why_unknown(
    timeline: Timeline, scopes: Sequence[Scope], pods: Mapping[Name, Pod], at_ns: int, ends: tuple[EndQuery, EndQuery]
) -> str:
    """Return why it is not known what policies said at a time; empty if it is."""
    why = next((text for scope in scopes if (text := timeline.unknown(scope, at_ns, at_ns))), "")
    if not why and not all(_namespace(pods, end) for end in ends):
        # The address of a Service would be taken for one outside the cluster.
        why = timeline.unknown_services(at_ns)
    return why


def _today(
    timeline: Timeline, scopes: Sequence[Scope], pods: Mapping[Name, Pod], now_ns: int, ends: tuple[EndQuery, EndQuery]
) -> Explanation | None:
    found = _explain(timeline, scopes, pods, now_ns, ends, ())
    return None if found.verdict == UNKNOWN else found


def suggest_today(
    timeline: Timeline, candidates: Sequence[Mapping[Name, Pod]], now_ns: int, ends: tuple[EndQuery, EndQuery]
) -> Suggestion:
    """Return what would allow a connection by the newest policies. ``candidates``: as for :func:`explain_record`.

    Labels are chosen so that they tell the ends from the other kinds of pods in their namespaces."""
    view, found = timeline.view_at(now_ns), []
    kinds = [(number, one) for number, one in timeline.profiles.items() if not one.host_network]
    for pods in candidates:
        if why := _why_unknown(timeline, _scopes(pods, ends), pods, now_ns, ends):
            return Suggestion(text=f"cannot say: {why}")
        namespaces = {_namespace(pods, end) for end in ends}
        beside = (stand_in(one, number) for number, one in kinds if one.namespace in namespaces)
        there = {**{one.key: one for one in beside}, **pods}
        found.append(suggest(replace(view, pods=there), timeline.services_at(now_ns), *ends))
    if any(one != found[0] for one in found):
        return Suggestion(text="cannot say: it depends on labels of the pods that are not known")
    return found[0]


def _scopes(pods: Mapping[Name, Pod], ends: tuple[EndQuery, EndQuery]) -> list[Scope]:
    """Return on what the verdicts of both ends depend."""
    names = [_namespace(pods, end) for end in ends]
    found = [Scope(one, other, nodes=True) for one, other in (names, names[::-1]) if one]
    return found or [Scope("", nodes=True)]


def _namespace(pods: Mapping[Name, Pod], end: EndQuery) -> str:
    if end.pod is not None:
        return end.pod.namespace
    return next((pod.namespace for pod in pods.values() if end.ip in pod.ips), "")


def _times_around(timeline: Timeline, scopes: Sequence[Scope], at_ns: int) -> list[int]:
    """Return a time of each version around a time, the nearest first."""
    starts = {
        segment.since_ns
        for scope in scopes
        for segment in timeline.segments(scope, max(0, at_ns - BEFORE_NS), at_ns + AFTER_NS)
    }
    return [at_ns, *sorted(starts - {at_ns}, key=lambda start: abs(start - at_ns))]


def _agrees(then: Explanation, record: Recorded) -> bool:
    decided = [side for answer in then.answers for side in answer.sides if side.direction == record.direction]
    return any(_says(side, record) for side in decided)


def _says(side: EndDecision, record: Recorded) -> bool:
    if (side.verdict, side.reason) != (record.verdict, record.reason):
        return False
    return {(one.kind, one.namespace, one.name) for one in side.policies} == set(record.policies)


# --- changes


def _changes(timeline: Timeline, scopes: Sequence[Scope], at_ns: int, now_ns: int) -> Iterator[Change]:
    """Yield what was changed since, each version once, without nodes: those come and go."""
    seen = set()
    versions = [one for scope in scopes for one in timeline.changes(scope._replace(nodes=False), at_ns, now_ns)]
    for one in sorted(versions, key=lambda version: version.seen_ns):
        place = (one.kind, one.namespace, one.name, one.seen_ns)
        if place not in seen:
            seen.add(place)
            later = (one.seen_ns - at_ns) / SECOND_NS
            what = _what(one, timeline.versions(one.kind, one.namespace, one.name))
            yield Change(one.kind, one.namespace, one.name, what, moment(one.seen_ns), round(later, 3), one.changed_by)


def _what(version: Version, versions: Sequence[Version]) -> str:
    if version.state is None and version.readable:
        return "deleted"
    before = [one for one in versions if one.seen_ns < version.seen_ns]
    # The state before may be one that is not known.
    return "changed" if before and (before[-1].state is not None or not before[-1].readable) else "created"


def _later(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"


# --- pods of the past


def pods_at(intervals: Iterable[AddressInterval], at_ns: int) -> dict[Name, Pod]:
    """Return the pods that surely had an address at a time. :func:`with_ports` says which named ports they had."""
    found: dict[str, Pod] = {}
    for interval in intervals:
        one = interval.corrected()
        if one.start <= at_ns and (one.end is None or at_ns <= one.end):
            pod = one.as_pod()
            before = found.get(pod.uid)
            ips = pod.ips if before is None else tuple(dict.fromkeys((*before.ips, *pod.ips)))
            found[pod.uid] = msgspec.structs.replace(pod, ips=ips, started_ns=one.start)
    return {pod.key: pod for pod in found.values()}


def with_ports(pod: Pod, known: Known) -> list[Pod]:
    """Return a pod with each choice of named ports that profiles of its labels have; with none if there is none."""
    alike = (one for one in known.profiles.values() if one.namespace == pod.namespace and not one.host_network)
    found = (named_ports(one) for one in alike if _kept(pod.labels, one) == one.labels)
    return [msgspec.structs.replace(pod, ports=ports) for ports in dict.fromkeys(found) or ((),)]


def profiles_of_workload(
    known: Known, namespace: str, workload: tuple[str, str], labels: Mapping[str, str]
) -> list[Profile]:
    """Return the profiles that a pod of a workload with some labels may have had."""
    return [
        one
        for one in known.profiles.values()
        if (one.namespace, one.workload_kind, one.workload_name) == (namespace, *workload)
        and not one.host_network
        and all(one.labels.get(key) == value for key, value in _kept(labels, one).items())
    ]


def _kept(labels: Mapping[str, str], profile: Profile) -> dict[str, str]:
    """Return the labels of a pod that its profile would have."""
    left_out = left_out_of(profile)
    return {key: value for key, value in labels.items() if not is_left_out(key, left_out)}
