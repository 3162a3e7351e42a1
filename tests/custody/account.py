"""The account: whether captures, script and log agree. It knows nothing of the product.

For each flow, with the policies that the script says were in force on each end's node when each packet was sent:

1. What policy allows has arrived, what it denies has not, and nothing has arrived that was not sent.
2. Each end that enforces policy has logged the connection once if a packet passed there, and never otherwise.
3. The counts of the flow's denials, at both ends together, are the number of packets that have not arrived; at each
   end they are the number that this end's policies deny.
4. Each record has the reason and the policies that the oracle finds, the pods that had the addresses, the Service
   address that was dialled, and a time at which the packet was on its way.

While a change of policy is asked for and not in force yet, either policy may judge. Then 1 and the share of each end in
3 are left to what the captures say; everything else holds as always. While one generation of maps takes over from
another, both may log a connection that is opened just then, each in its own ring (docs/decisions/019-generations.md),
and its next packets may be judged alone (:mod:`tests.custody.moves`); but nothing passes that policy denies, and what
is dropped is counted. A pod that lives as long as the run is always named; another one may go without a name near the
moments when its address changes hands, and while the probe is away that would say whose it is. All of these are
counted.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from tests.custody.ends import Ends, answers_of, is_pod
from tests.custody.moves import Moves
from tests.custody.packets import ICMP, ICMPV6, Packet, Tuple
from tests.custody.policies import NAMES, Answer, Policy
from tests.custody.records import Record, distinct, read_record
from tests.custody.report import Report
from tests.custody.script import CLUSTER, NAMESPACE, Host, Script
from tests.custody.wire import Flow, Way, Wire

ENDS: Final = ("egress", "ingress")
_JUDGED_NS: Final = 250_000_000
"""A packet that was sent is judged within this time, also on a busy machine."""
_CLOCK_NS: Final = 20_000_000
"""By how much times of the captures and of the log may differ."""
_SETTLED_NS: Final = 3_000_000_000
"""For so long around a change of its owner an address may go without a name: the API server's times are seconds."""
_UNKNOWN: Final = Answer(passes=False, reason="unknown_flow")
_ADOPTED: Final = Answer(passes=True, reason="adopted")


@dataclass
class _Entries:
    """The records of a flow at one of its ends."""

    allows: list[Record] = field(default_factory=list)
    denials: list[Record] = field(default_factory=list)

    @property
    def denied(self) -> int:
        return sum(record.count for record in self.denials)


class Account:
    """One account. :meth:`report` makes it."""

    def __init__(self, script: Script, packets: Sequence[Packet], records: Iterable[dict[str, Any]]) -> None:
        self._script = script
        self.result = Report(packets=len(packets))
        self._wire = Wire(script, packets)
        self._moves = Moves(script, self._wire)
        raw, self._repeats, problems = distinct(records)
        self.result.verdicts, self.result.repeats = len(raw), len(self._repeats)
        self.result.by_node.update(one["node_name"] for one in raw)
        self._differ(*problems)
        self._raw = raw
        self._entries: defaultdict[tuple[Tuple, str], _Entries] = defaultdict(_Entries)
        self._echoes: defaultdict[tuple[int, str, str], list[Flow]] = defaultdict(list)
        self._answers = cache(answers_of)

    def report(self) -> Report:
        """Compare everything."""
        for flow in self._wire.flows.values():
            if flow.key.protocol in {ICMP, ICMPV6} and not flow.key.is_error:
                self._echoes[flow.key.protocol, flow.key.source, flow.key.destination].append(flow)
        if self._wire.unknown:
            self._differ(f"{self._wire.unknown} later fragments arrived without their first one")
        for raw in self._raw:
            self._take(raw)
        for raw in self._repeats:
            with contextlib.suppress(KeyError):  # the first copy is a difference already
                record = read_record(raw)
                if repeated := self._flow_of(record):
                    self._check_names(repeated, record)
        for flow in self._wire.flows.values():
            self._check_flow(flow)
        return self.result

    def _differ(self, *texts: str) -> None:
        self.result.differences += texts

    # --- records

    def _take(self, raw: dict[str, Any]) -> None:
        try:
            record = read_record(raw)
        except KeyError as error:
            self._differ(f"record {raw['id']} cannot be any packet's: {error!r} in {raw}")
            return
        flow = self._flow_of(record)
        if flow is None and (answered := self._moves.answered(record)):
            self.result.alone += 1
            if not record.passes:
                self._entries[answered.key, record.direction].denials.append(record)
            return
        if flow is None:
            self._differ(f"{record} is about no packet that was captured")
            return
        entries = self._entries[flow.key, record.direction]
        (entries.allows if record.passes else entries.denials).append(record)
        self._check_decision(flow, record)
        self._check_names(flow, record)
        if not flow.first - _CLOCK_NS <= record.at <= flow.last + _JUDGED_NS:
            self._differ(f"{record}: no packet of it was on its way then, only from {flow.first} to {flow.last}")

    def _flow_of(self, record: Record) -> Flow | None:
        key = record.key
        if key.protocol not in {ICMP, ICMPV6} or key.is_error:
            return self._wire.flows.get(key)
        # A record has no identifier of the echo. The script has one ping between two hosts at a time.
        near = self._echoes[key.protocol, key.source, key.destination]
        return min(near, key=lambda flow: max(flow.first - record.at, record.at - flow.last, 0), default=None)

    def _check_decision(self, flow: Flow, record: Record) -> None:
        if record.passes and record.count != 1:
            self._differ(f"{record} has the count {record.count}")
        at = ENDS.index(record.direction)
        subject = (flow.source, flow.destination)[at]
        if record.raw["cluster"] != CLUSTER or (subject and record.raw["node_name"] != subject.node):
            self._differ(f"{record} is of node {record.raw['node_name']} and cluster {record.raw['cluster']}")
        found = Answer(record.passes, record.reason, record.policies)
        right = {answers[at] for answers in self._judge(flow, record.at - _CLOCK_NS, record.at + _CLOCK_NS)}
        if flow.key.is_error:
            # It passes as part of the connection that it is about. Policy judges it only when that was just revoked.
            # So do programs that do not know the connection yet, while interfaces are moved; what policy allows passes.
            if record.passes and found in right and self._moves.during(flow, record.at):
                self.result.alone += 1
            elif not self._is_changing(flow, record.at):
                self._differ(f"{record} is about an error, and no policy was changing")
            return
        if found == _UNKNOWN and subject and record.at < subject.adopting_until:
            # It is denied because policy denies it, unless somebody knows that it is a reply.
            right = {_UNKNOWN for answer in right if not answer.passes}
        is_late = found == _UNKNOWN or (found == _ADOPTED and any(answer.passes for answer in right))
        if is_late and self._moves.opened(flow):
            self.result.alone += 1
        elif found not in right:
            self._differ(f"{record} names {sorted(found.policies)}; by policy it is one of {right}")
        dialled = record.raw.get("dialled") or {}
        if record.direction == "egress" and (dialled or flow.dialled):
            service = (dialled.get("service") or {}).get("name")
            named = {(one.address, one.port): one.name for one in self._script.services}
            if (dialled.get("ip"), dialled.get("port")) != flow.dialled or service != named.get(
                flow.dialled or ("", 0)
            ):
                self._differ(f"{record} was dialled at {dialled}, in truth {flow.dialled}")

    def _is_changing(self, flow: Flow, at: int) -> bool:
        return len(self._states(flow, at - _JUDGED_NS, at + _JUDGED_NS)) > 1

    def _check_names(self, flow: Flow, record: Record) -> None:
        for name, host in (("src", flow.source), ("dest", flow.destination)):
            end, is_subject = record.end(name), (name == "src") == (record.direction == "egress")
            found = end.get("pod_name"), end.get("pod_uid"), end.get("namespace")
            if host is None or not host.is_pod:
                if found != (None, None, None):
                    self._differ(f"{record}: {name} is {found}, in truth {host.name if host else 'no host'}")
            elif found == (None, None, None) and not is_subject and self._may_be_nameless(host, record.at):
                self.result.nameless += 1
            elif found != (host.name, host.uid, NAMESPACE):
                self._differ(f"{record}: {name} is {found}, in truth {host.name} {host.uid}")

    def _may_be_nameless(self, host: Host, at: int) -> bool:
        """Return whether it may not be known who has a host's address: it is just changing hands, or it has done so, or
        will, while no probe worked on a node that should have seen it, and that is still so."""
        owners = [one for one in self._script.hosts if set(one.addresses) & set(host.addresses)]
        moments = (moment for one in owners for moment in (one.begun, one.gone))
        if any(moment and abs(at - moment) < _SETTLED_NS for moment in moments):
            return True
        away = [(one.node, one.first - _SETTLED_NS, one.last + _SETTLED_NS) for one in self._script.absences]
        owners.sort(key=lambda one: one.begun)
        return any(
            node in (old.node, new.node) and first <= at <= last and first <= new.begun and old.gone <= last
            for old, new in itertools.pairwise(owners)
            if host in (old, new)
            for node, first, last in away
        )

    # --- flows

    def _states(self, flow: Flow, first: int, last: int) -> list[tuple[frozenset[Policy], frozenset[Policy]]]:
        """Return the policies that may have been in force at both ends at some moment of a time.

        Each node has its own moment from which a change is in force.
        """
        nodes = [host.node for host in (flow.source, flow.destination) if host and host.node]
        states = {node: self._script.states(first, last, node) for node in nodes}
        if len(states) < 2:
            return [(state, state) for found in states.values() for state in found]
        return list(itertools.product(states[nodes[0]], states[nodes[1]]))

    def _judge(self, flow: Flow, first: int, last: int) -> list[tuple[Answer, Answer]]:
        """Return what both ends may do with a packet of the flow at some moment of a time."""
        ends = Ends.of(flow)
        found = ((self._answers(out, ends)[0], self._answers(into, ends)[1])
                 for out, into in self._states(flow, first, last))  # fmt: skip
        return list(dict.fromkeys(found))

    def _check_flow(self, flow: Flow) -> None:
        out, into = self._entries[flow.key, "egress"], self._entries[flow.key, "ingress"]
        text = f"{NAMES.get(flow.key.protocol, 'ICMP')} {flow.key} from {flow.first}"
        missing = flow.forward.missing(), flow.back.missing()
        for way in (flow.forward, flow.back):
            if invented := way.invented():
                self._differ(f"{text}: {invented} packets arrived that were not sent")
        denied = out.denied + into.denied
        if denied != len(missing[0]) + len(missing[1]):
            sent = len(flow.forward.sent), len(flow.back.sent)
            self._differ(f"{text}: {denied} packets were denied, and of {sent[0]} there and {sent[1]} back "
                         f"{len(missing[0])} and {len(missing[1])} did not arrive")  # fmt: skip
        is_certain = len(self._states(flow, flow.first, flow.last + _JUDGED_NS)) == 1
        self.result.in_windows += not is_certain and not flow.key.is_error
        passed = bool(flow.forward.arrived)
        kind = "ICMP error" if flow.key.is_error else NAMES.get(flow.key.protocol, "ICMP")
        self.result.flows[f"{kind} {'allowed' if passed else 'denied'}"] += 1
        if flow.key.is_error:
            if lost := [packet.at for packet in missing[0] if not self._is_changing(flow, packet.at)]:
                self._differ(f"{text}: errors of {lost} were denied, and no policy was changing")
            return
        self._check_ends(flow, text, out, into)
        self._check_packets(flow, text, missing)
        if is_certain:
            for way in (flow.forward, flow.back):
                if way.later_arrived != (way.later_sent if way.arrived else 0):
                    self._differ(f"{text}: {way.later_arrived} of {way.later_sent} later fragments arrived")

    def _check_ends(self, flow: Flow, text: str, out: _Entries, into: _Entries) -> None:
        """An end that has let a packet pass has logged the connection once."""
        passed = bool(flow.forward.arrived)
        if passed and flow.source and flow.destination and flow.source.is_pod and flow.destination.is_pod:
            self.result.across += flow.source.node != flow.destination.node
        expected = {
            "egress": (out, is_pod(flow.source) and (passed or into.denied > 0)),
            "ingress": (into, is_pod(flow.destination) and passed),
        }
        for end, (entries, is_logged) in expected.items():
            if is_logged and (self._is_taken_over(entries.allows) or self._is_adopted(flow, entries.allows)):
                self.result.twice += 1
            elif len(entries.allows) != is_logged:
                self._differ(f"{text}: {len(entries.allows)} times allowed at its {end} in the log, in truth "
                             f"{int(is_logged)} times")  # fmt: skip

    def _is_taken_over(self, allows: Sequence[Record]) -> bool:
        """Return whether these are the two records of two generations, of a time when one took over from the other."""
        rings = {record.id.rpartition("-")[0] for record in allows}
        return len(allows) == len(rings) == 2 and any(
            all(record.raw["node_name"] == one.node and one.first <= record.at <= one.last for record in allows)
            for one in self._script.takeovers
        )

    def _is_adopted(self, flow: Flow, allows: Sequence[Record]) -> bool:
        """Return whether a connection that was opened while interfaces were moved was logged, and then adopted."""
        return len(allows) == 2 and self._moves.opened(flow) and "adopted" in {record.reason for record in allows}

    def _check_packets(self, flow: Flow, text: str, missing: tuple[list[Packet], list[Packet]]) -> None:
        """Each packet fares as policy says, and each end denies what its own policies deny."""
        least, unknown, is_moved = Counter[str](), 0, self._moves.opened(flow)
        # Of most flows no policy changes meanwhile, so that one answer is that about all of their packets.
        always = self._judge(flow, flow.first, flow.last + _JUDGED_NS)
        for way, lost, ends in ((flow.forward, missing[0], ENDS), (flow.back, missing[1], ENDS[::-1])):
            for packet, has_arrived in _fates(way, lost):
                answers = always if len(always) == 1 else self._judge(flow, packet.at, packet.at + _JUDGED_NS)
                passes = any(one.passes and other.passes for one, other in answers)
                if has_arrived != passes and len(answers) == 1 and (has_arrived or not is_moved):
                    fate = "arrived" if has_arrived else "did not arrive"
                    self._differ(f"{text}: a packet of {packet.at} {fate}; policy says {answers}")
                if has_arrived:
                    continue
                deniers = {next((end for end in ends if not both[ENDS.index(end)].passes), "") for both in answers}
                if len(deniers) == 1:
                    least[deniers.pop()] += 1
                else:
                    unknown += 1
        for end in () if is_moved else ENDS:
            found = self._entries[flow.key, end].denied
            if not least[end] <= found <= least[end] + unknown:
                self._differ(f"{text}: {found} packets denied at its {end} in the log, in truth {least[end]} and at "
                             f"most {unknown} more")  # fmt: skip


def _fates(way: Way, missing: Sequence[Packet]) -> list[tuple[Packet, bool]]:
    lost = Counter(id(packet) for packet in missing)
    return [(packet, not lost[id(packet)]) for packet in way.sent]
