"""The pods that the ends of a flow record may have been, with what policies can see of them.

A record names its pods, and has only the labels that ``WEIR_LABELS`` chooses. What else a pod had is known from two
places:

1. its address interval, which has the labels that it had all the time, until a day after its end;
2. the profiles of its workload in the journal, which have the named ports and all labels, but not of which pod.

So a record's pod is one of the profiles of its workload that agree with its interval, or with the labels of the record.
If there are several, policies may decide them differently.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from enrich.history.profile import all_left_out, is_left_out, left_out_of, named_ports
from enrich.history.stand_ins import Known, UnsayableError, label_choices
from enrich.history.versions import FOREVER_NS
from enrich.model import Labels, NamedPort, Pod
from enrich.wire.address_interval import AddressInterval
from enrich.wire.flow import End
from enrich.wire.journal import Profile

MAX_CHOICES: Final = 64
"""More pods than this that one end may have been are not looked at."""
_MAX_REMEMBERED: Final = 200_000
SLACK_NS: Final = 5_000_000_000
"""So long after its beginning, and before its end, an interval is sure for any node's clock."""


class Choice(NamedTuple):
    """A pod that an end may have been."""

    kind: int
    """Equal for pods of which policies see the same, addresses apart."""
    pod: Pod


class Held(NamedTuple):
    """What address intervals say of an end, from ``since_ns`` to before ``until_ns``."""

    other: str
    """That another pod surely had the address; empty if not."""
    since_ns: int
    until_ns: int


class _Interval(NamedTuple):
    since_ns: int
    until_ns: int
    uid: str
    pod: str


class RecordPods:
    """Finds the pods that the ends of records may have been."""

    def __init__(self, known: Known, intervals: Iterable[AddressInterval] = (), refused: Iterable[str] = ()) -> None:
        """``refused``: namespaces with pods whose labels the journal could not take."""
        self.left_out = all_left_out(known.profiles.values())
        """The labels that some profile was made without."""
        self._refused = frozenset(refused)
        self._labels: dict[tuple[str, str], Labels] = {}
        self._intervals: defaultdict[str, list[_Interval]] = defaultdict(list)
        for one in map(AddressInterval.corrected, intervals):
            self._labels[one.ip, one.uid] = one.as_pod().labels
            since, until = one.start + SLACK_NS, (one.end or FOREVER_NS) - SLACK_NS
            if since < until:
                self._intervals[one.ip].append(_Interval(since, until, one.uid, f"{one.namespace}/{one.pod}"))
        self._profiles: defaultdict[tuple[str, str, str], list[Profile]] = defaultdict(list)
        for profile in known.profiles.values():
            if not profile.host_network:
                self._profiles[profile.namespace, profile.workload_kind, profile.workload_name].append(profile)
        self._kinds: dict[object, int] = {}
        self._remembered: dict[object, tuple[Choice, ...]] = {}

    def choices(self, end: End, ip: str, asked: Mapping[str, tuple[str, ...]]) -> tuple[Choice, ...]:
        """Return the pods that an end with an address may have been.

        ``asked``: labels that profiles leave out and that policies ask for, with the values that they name. Raises
        :class:`enrich.history.stand_ins.UnsayableError`."""
        key = (*_hashable(end), ip, tuple(asked.items()))
        found = self._remembered.get(key)
        if found is None:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            found = self._remembered[key] = self._choices(end, ip, asked)
        if end.namespace in self._refused:
            raise UnsayableError(f"the journal could not take the labels of some pods of {end.namespace}")
        if not found:
            raise UnsayableError(f"the labels that pod {end.pod} had are not known")
        if len(found) > MAX_CHOICES:
            raise UnsayableError(f"pod {end.pod} may have had more than {MAX_CHOICES} sets of labels and named ports")
        return found

    def forget(self) -> None:
        """Forget what was found for records so far."""
        self._remembered.clear()
        self._kinds.clear()

    def is_surely(self, ip: str, end: End) -> bool:
        """Return whether no other pod than the record's is known to have had an address at any time."""
        there = self._intervals.get(ip)
        return not there or (len(there) == 1 and there[0].uid == end.pod_uid)

    def held(self, ip: str, end: End, at_ns: int) -> Held:
        """Return whether another pod than the record names, or one where it names none, surely had an address."""
        if self.is_surely(ip, end):
            return Held("", 0, FOREVER_NS)
        there = self._intervals[ip]
        edges = sorted({edge for one in there for edge in one[:2]})
        place = bisect_right(edges, at_ns)
        since = edges[place - 1] if place else 0
        until = edges[place] if place < len(edges) else FOREVER_NS
        holders = [one for one in there if one.since_ns <= at_ns < one.until_ns]
        if not holders or any(one.uid == end.pod_uid for one in holders):
            return Held("", since, until)
        named = end.pod or "no pod"
        return Held(f"the record says {named}, but {ip} was {holders[-1].pod}'s", since, until)

    def _choices(self, end: End, ip: str, asked: Mapping[str, tuple[str, ...]]) -> tuple[Choice, ...]:
        made: dict[int, Choice] = {}
        for labels, ports in self._labels_and_ports(end, ip, asked):
            seen = (end.namespace, tuple(sorted(labels.items())), ports)
            kind = self._kinds.setdefault(seen, len(self._kinds))
            pod = Pod(end.namespace, end.pod_name, end.pod_uid, labels, (ip,), end.node_name, ports=ports)
            made[kind] = Choice(kind, pod)
            if len(made) > MAX_CHOICES:
                break
        return tuple(made.values())

    def _labels_and_ports(
        self, end: End, ip: str, asked: Mapping[str, tuple[str, ...]]
    ) -> Iterator[tuple[dict[str, str], tuple[NamedPort, ...]]]:
        kept = self._labels.get((ip, end.pod_uid)) if end.pod_uid else None
        there = self._profiles.get((end.namespace, end.workload_kind, end.workload_name), [])
        recorded = end.labels or {}
        if kept is not None:
            sure = dict(kept)
            profiles = [one for one in there if self._agrees(one, sure)]
            # The record's labels are of its time. If they contradict the pod's, they are not believed.
            profiles = [one for one in profiles if self._agrees(one, recorded)] or profiles
            unknown: Mapping[str, tuple[str, ...]] = {}
        else:
            sure = dict(recorded)
            profiles = [one for one in there if self._agrees(one, sure)]
            unknown = {key: values for key, values in asked.items() if key not in sure}
        for profile in profiles:
            left_out = left_out_of(profile)
            choices = label_choices({key: values for key, values in unknown.items() if is_left_out(key, left_out)})
            for extra in itertools.islice(choices, MAX_CHOICES + 1):
                yield {**profile.labels, **sure, **extra}, named_ports(profile)

    @staticmethod
    def _agrees(profile: Profile, labels: Mapping[str, str]) -> bool:
        left_out = left_out_of(profile)
        return all(profile.labels.get(key) == value for key, value in labels.items() if not is_left_out(key, left_out))


def _hashable(end: End) -> tuple[object, ...]:
    return (
        end.namespace, end.pod_name, end.pod_uid, end.workload_kind, end.workload_name, end.node_name,
        tuple((end.labels or {}).items()),
    )  # fmt: skip
