"""What `weir explain` does with the past: find the pods of a time, and let history answer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, TypeVar

import msgspec

from enrich.explain.explanation import UNKNOWN
from enrich.explain.query import EndQuery
from enrich.history.advice.suggestion import Suggestion
from enrich.history.comparing import AFTER_NS, BEFORE_NS
from enrich.history.distinctions import Distinctions
from enrich.history.profile import left_out_of, named_ports
from enrich.history.stand_ins import Known, label_choices
from enrich.history.then import (
    PastExplanation,
    Recorded,
    explain_at,
    explain_record,
    pods_at,
    profiles_of_workload,
    suggest_today,
    unknown,
    with_ports,
)
from enrich.model import Name, Owner, Pod, Protocol
from enrich.wire.address_interval import AddressInterval, AddressIntervalError, decode_interval
from enrich.wire.flow import End, Flow
from enrich.wire.journal import Profile
from streams.cli.past import Past
from streams.kafka.connection import Connection
from streams.kafka.reading import TopicReader, read_committed

_MAX_CANDIDATES: Final = 16
"""Combinations of labels that the ends of a record may have had."""
_Choice = TypeVar("_Choice")


def intervals_of(connection: Connection, topic: str, cluster: str) -> list[AddressInterval]:
    """Return the address intervals of a cluster's pods. Raises ReadError."""
    reader = TopicReader(connection, topic)
    try:
        partitions = list(reader.bounds())
    finally:
        reader.close()
    found: dict[bytes, AddressInterval] = {}
    for record in read_committed(connection, topic, partitions):
        found.pop(record.key or b"", None)
        try:
            interval = decode_interval(record.value, record.key) if record.value and record.key else None
        except AddressIntervalError:
            continue
        if interval is not None and interval.cluster == cluster:
            found[interval.key] = interval
    return list(found.values())


def at_time(
    past: Past, intervals: Sequence[AddressInterval], at_ns: int, ends: tuple[EndQuery, EndQuery], *,
    suggest: bool = False,
) -> PastExplanation:  # fmt: skip
    """Return what policies said at a time about a connection of pods of that time. ``suggest``: also what would allow
    it today."""
    pods = pods_at(intervals, at_ns)
    notes = list(past.notes)
    for end in ends:
        if end.pod is not None and end.pod not in pods:
            notes.append(
                f"{end.pod} had no address then, as far as {len(intervals):,} address intervals go; these are kept a "
                "day after a pod ends. For an older one, give the id of one of its records"
            )
    asked = [pod for pod in pods.values() if any(end.pod == pod.key or end.ip in pod.ips for end in ends)]
    choices = list(_products([with_ports(pod, past.known) for pod in asked]))
    now_ns = time.time_ns()
    candidates = [{**pods, **{pod.key: pod for pod in chosen}} for chosen in choices[:_MAX_CANDIDATES]]
    found = [explain_at(past.timeline, one, at_ns, now_ns, ends, notes) for one in candidates]
    if len(choices) > _MAX_CANDIDATES or len({one.then.verdict for one in found}) > 1:
        text = "which ports of the pods had which names is not known, and policies ask for names"
        answer = PastExplanation(at=found[0].at, then=unknown(ends, text, notes), changes=found[0].changes)
        suggestion = Suggestion(text=f"cannot say: {text}")
        return msgspec.structs.replace(answer, suggestion=suggestion) if suggest else answer
    is_sure = len({one.today.verdict if one.today else UNKNOWN for one in found}) == 1
    answer = found[0] if is_sure else msgspec.structs.replace(found[0], today=None)
    return _with_suggestion(past, answer, candidates, now_ns, ends) if suggest else answer


def _with_suggestion(
    past: Past, answer: PastExplanation, candidates: Sequence[Mapping[Name, Pod]], now_ns: int,
    ends: tuple[EndQuery, EndQuery],
) -> PastExplanation:  # fmt: skip
    return msgspec.structs.replace(answer, suggestion=suggest_today(past.timeline, candidates, now_ns, ends))


def _products(choices: Sequence[Sequence[_Choice]]) -> Iterator[tuple[_Choice, ...]]:
    """Yield one of each, in all combinations, up to one more than anybody looks at."""
    return itertools.islice(itertools.product(*choices), _MAX_CANDIDATES + 1)


def of_record(
    past: Past, intervals: Sequence[AddressInterval], flow: Flow, *, suggest: bool = False
) -> PastExplanation:
    """Return what policies said that made a record. ``suggest``: also what would allow its connection today."""
    at_ns = nanoseconds(flow.timestamp)
    record = Recorded(
        id=flow.id, timestamp=flow.timestamp, direction=flow.direction, verdict=flow.disposition, reason=flow.reason,
        policies=tuple((one.kind, one.namespace, one.name) for one in (*flow.policies, *flow.isolated_by)),
    )  # fmt: skip
    ends = _ends(flow)
    why = _unanswerable(flow)
    candidates: list[Mapping[Name, Pod]] = []
    if not why:
        there = pods_at(intervals, at_ns)
        labels = _UnknownLabels(past, at_ns, (flow.src.namespace, flow.dest.namespace))
        choices = [_pods(flow, side, there, past.known, labels) for side in (flow.src, flow.dest)]
        missing = next((end for end, found in zip((flow.src, flow.dest), choices, strict=True) if not found), None)
        why = f"the labels that pod {missing.pod} had are not known" if missing else ""
        candidates = [{pod.key: pod for pod in chosen if pod is not None} for chosen in _products(choices)]
        if len(candidates) > _MAX_CANDIDATES:
            why = f"its pods may have had more than {_MAX_CANDIDATES} combinations of labels and named ports"
    if why:
        answer = PastExplanation(at=flow.timestamp, record=record, then=unknown(ends, why, past.notes))
        suggestion = Suggestion(text=f"cannot say: {why}")
        return msgspec.structs.replace(answer, suggestion=suggestion) if suggest else answer
    now_ns = time.time_ns()
    answer = explain_record(past.timeline, candidates, record, (at_ns, now_ns), ends, past.notes)
    return _with_suggestion(past, answer, candidates, now_ns, ends) if suggest else answer


def nanoseconds(timestamp: str) -> int:
    """Return the time of an RFC 3339 text with up to nine digits of a second."""
    whole, _, rest = timestamp.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(f"{whole}+00:00").timestamp()) * 1_000_000_000 + int(rest.ljust(9, "0")[:9] or 0)


def _unanswerable(flow: Flow) -> str:
    """Return why a record cannot be explained; empty if it can."""
    if flow.aggregated or not flow.connection.src_ip or not flow.connection.dest_ip:
        return "the record counts flows together, without addresses"
    if flow.src.ambiguous or flow.dest.ambiguous:
        return "it is not certain which pod, if any, had an address of the record"
    if flow.protocol in _PORTS and flow.connection.dest_port is None:
        return "the record has no port"
    return ""


_PORTS: Final = {one.name.lower(): one for one in Protocol}


def _ends(flow: Flow) -> tuple[EndQuery, EndQuery]:
    """Return the ends of a record as a person would ask for them."""
    protocol = _PORTS.get(flow.protocol)
    port = str(flow.connection.dest_port or "") if protocol else ""
    source, destination = flow.connection.src_ip, flow.connection.dest_ip
    return EndQuery(source, ip=source), EndQuery(destination, ip=destination, port=port, protocol=protocol)


class _UnknownLabels:
    """The labels that profiles leave out and that policies, of then or of today, ask for, with the values."""

    def __init__(self, past: Past, at_ns: int, namespaces: Sequence[str]) -> None:
        times = (max(0, at_ns - BEFORE_NS), at_ns, at_ns + AFTER_NS, time.time_ns())
        self._views = [past.timeline.view_at(one) for one in times]
        self._namespaces = namespaces
        self._found: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {}

    def of(self, profile: Profile) -> Mapping[str, tuple[str, ...]]:
        """Return those that a profile was made without."""
        left_out = left_out_of(profile)
        found = self._found.get(left_out)
        if found is None:
            found = self._found[left_out] = {}
            for namespace in self._namespaces:
                for key, values in Distinctions.of(self._views, namespace, left_out).labels.items():
                    found[key] = tuple(dict.fromkeys((*found.get(key, ()), *values)))
        return found


def _pods(flow: Flow, end: End, there: Mapping[Name, Pod], known: Known, labels: _UnknownLabels) -> list[Pod | None]:
    """Return the pods that an end may have been, one for each set of labels and ports; [None] if it was none."""
    if not end.pod_name:
        return [None]
    ip = flow.connection.src_ip if end is flow.src else flow.connection.dest_ip
    found = there.get(Name(end.namespace, end.pod_name))
    if found is not None and (not end.pod_uid or found.uid == end.pod_uid):
        placed = found if ip in found.ips else msgspec.structs.replace(found, ips=(*found.ips, ip))
        return list(with_ports(placed, known))
    return list(itertools.islice(_pods_of_profiles(end, ip, known, labels), _MAX_CANDIDATES + 1))


def _pods_of_profiles(end: End, ip: str, known: Known, labels: _UnknownLabels) -> Iterator[Pod | None]:
    workload, recorded = (end.workload_kind, end.workload_name), end.labels or {}
    profiles = profiles_of_workload(known, end.namespace, workload, recorded)
    choices = (
        (profile, extra)
        for profile in profiles
        for extra in label_choices({key: values for key, values in labels.of(profile).items() if key not in recorded})
    )
    for profile, extra in choices:
        yield Pod(
            end.namespace, end.pod_name, end.pod_uid, {**profile.labels, **recorded, **extra}, (ip,), end.node_name,
            ports=named_ports(profile), owner=Owner(*workload) if end.workload_name else None,
        )  # fmt: skip
