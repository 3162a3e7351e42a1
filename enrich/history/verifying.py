"""Judges flow records again: whether the policies of their time decide what was recorded.

THEORY OF OPERATION

1. A record has the subject, the peer with its address, the protocol and the port, so one call of
   :func:`enrich.policy.decide.decide` judges it. Which labels and named ports its pods had, their address intervals and
   the profiles of the journal say (:mod:`enrich.history.record_pods`); where several are possible, each is judged.
2. The kernel has a version of a policy some time after the API server, and the journal may learn of it before or after
   the kernel. So a record agrees if the policies of *any* moment from ``delay_ns`` before it to half as long after it
   decide what was recorded. If those of its own moment do not, it agrees *late*, and is counted apart. An example: a
   policy is deleted at 10:00:00, and a denial by it is recorded at 10:00:02. It agrees late. One of 10:05:00
   disagrees. Where the node has said since when and until when it had which versions (:mod:`enrich.history.epochs`),
   only those moments count that had the same policies about the subject.
3. Verdict, reason and policies are compared. A record may name fewer policies than decide: NetworkLogging leaves those
   out that are not to be logged. A rule's index is not in a record.
4. What policies do not decide, such as a forged source address, is not judged, and counted by its reason. An allowed
   connection that is older than its programs (``adopted``) must be one that policies allow; if they do not, it cannot
   be said, because it may have been opened before they were changed.
5. The kernel sees that a packet is its own node's, whatever its address. A record that says so (``node``) is believed
   if the address may be that node's: the API lists it, or it is in the node's range of pods, and no pod's.
6. A record *disagrees* only if everything that the answer depends on is known: all of the time around it is in the
   journal, and no possible pod would have been decided as recorded. Otherwise nothing is said.

Equal questions are asked once, and so are questions about pods and ports that no policy tells apart
(:mod:`enrich.history.alike`). The time around a record matters only through the changes in it, so the answer holds for
a span of time (:class:`Judged`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import product
from typing import Final, NamedTuple

from enrich.history.alike import Alike
from enrich.history.comparing import BEFORE_NS
from enrich.history.distinctions import Distinctions, Distinguished
from enrich.history.epochs import Epochs, Narrowing, Versions
from enrich.history.judging import DENY, JUDGED
from enrich.history.moments import moment
from enrich.history.record_pods import Choice, RecordPods
from enrich.history.record_question import (
    NODE,
    REASONS,
    Judged,
    Outcome,
    Question,
    Stretches,
    connection_of,
    decided,
    fits,
    in_words,
)
from enrich.history.stand_ins import UnsayableError
from enrich.history.timeline import Scope, Segment, Timeline
from enrich.history.versions import FOREVER_NS
from enrich.policy.decide import Decision
from enrich.wire.flow import Flow

_MAX_REMEMBERED: Final = 100_000
"""Questions that are asked once."""
_MAX_OF_NODES: Final = 20_000
"""Answers by what nodes had in force. Anyone who may write to the status topic could make any number of them."""


class _Apart(NamedTuple):
    """What the policies about the pods of a namespace tell apart."""

    distinguished: Distinguished
    alike: Alike


class Verifier:
    """Judges the records of one cluster and one window of time."""

    def __init__(
        self, timeline: Timeline, pods: RecordPods, window: tuple[int, int], delay_ns: int = BEFORE_NS,
        epochs: Callable[[], Epochs] | None = None,
    ) -> None:  # fmt: skip
        """``epochs`` reads what nodes have said. It is only called for a record of which that decides."""
        self._read_epochs, self._narrowing = epochs or Epochs, Narrowing()
        self._epochs = Epochs() if epochs is None else None
        self._timeline, self._pods, self._window = timeline, pods, window
        self.delay_ns, self.after_ns = delay_ns, delay_ns // 2
        self._node_ips = frozenset(ip for node in timeline.all_nodes() for ip in node.all_ips)
        self._stretches: dict[Scope, Stretches] = {}
        self._questions: dict[object, Question] = {}
        self._distinguished: dict[str, _Apart] = {}
        self._of_nodes: dict[tuple[Question, int, frozenset[Versions]], tuple[Outcome, str] | None] = {}
        """As :attr:`Question.answers`, also by what the node may have had in force."""

    @property
    def epochs(self) -> Epochs:
        """What the nodes have said."""
        if self._epochs is None:
            self._epochs = self._read_epochs()
        return self._epochs

    def forget(self) -> None:
        """Forget all questions, and what was kept of the records that they are about. Records may name any namespace,
        so what is known of each is forgotten, too."""
        self._questions.clear()
        self._stretches.clear()
        self._distinguished.clear()
        self._pods.forget()
        self._narrowing.forget()
        self._of_nodes.clear()

    def judge(self, flow: Flow, at_ns: int, last_ns: int = 0) -> Judged:
        """Return whether the policies of a record's time decide what was recorded; see :meth:`answer`."""
        return self.answer(self.question(flow), at_ns, last_ns, flow.id.rpartition("-")[0])

    def answer(self, question: Question, at_ns: int, last_ns: int = 0, ring: str = "") -> Judged:
        """Return whether the policies of a time decide what was recorded then.

        ``at_ns``: the time of the first packet that a record counts; ``last_ns``: that of the last one. If the two are
        far apart, policies may have changed in between, and the span of the answer is this moment alone. ``ring``: that
        of the record; empty to ask about the records of all nodes."""
        if question.said is not None:
            return question.said
        since, until = 0, FOREVER_NS
        if question.is_held:
            ends = (question.subject_ip, question.flow.subject), (question.peer_ip, question.flow.peer)
            held = [self._pods.held(ip, end, at_ns) for ip, end in ends]
            since, until = max(one.since_ns for one in held), min(one.until_ns for one in held)
            if other := held[0].other or held[1].other:
                return Judged(Outcome.CANNOT_SAY, since, until, other)
        if last_ns - at_ns > self.after_ns:
            near = self._near(question, at_ns, last_ns)
            outcome, text = self._outcome(question, near, at_ns, last_ns)
            if ring and self._is_nodes(question, near, outcome):
                outcome, text = self._of_node(question, near, at_ns, last_ns, ring) or (outcome, text)
            return Judged(outcome, at_ns, at_ns + 1, text)
        if (agreeing := self._agreeing(question, at_ns)) is not None:
            return Judged(Outcome.AGREES, max(since, agreeing[0]), min(until, agreeing[1]))
        bounds = question.stretches.bounds
        place = bisect_right(bounds, at_ns)
        since = max(since, bounds[place - 1]) if place else since
        until = min(until, bounds[place]) if place < len(bounds) else until
        near = self._near(question, at_ns, at_ns)
        found = question.answers.get(place)
        if found is None:
            found = question.answers[place] = self._outcome(question, near, at_ns, at_ns)
        if not self._is_nodes(question, near, found[0]):
            return Judged(found[0], since, until, found[1])
        if ring:
            found = self._of_node(question, near, at_ns, max(at_ns, last_ns), ring, place) or found
        return Judged(found[0], since, until, found[1], is_nodes=True)

    # --- what is asked

    def question(self, flow: Flow) -> Question:
        """Return what is asked about a record: the same for all that policies cannot tell apart."""
        if flow.disposition == DENY and flow.reason in REASONS - JUDGED:
            return self._said(flow, Outcome.NOT_JUDGED, flow.reason)
        try:
            key, made = self._asked(flow)
        except UnsayableError as error:
            return self._said(flow, Outcome.CANNOT_SAY, str(error))
        return self._remembered(key, made)

    def _said(self, flow: Flow, outcome: Outcome, text: str) -> Question:
        return self._remembered((outcome, text), Question(flow, Judged(outcome, 0, FOREVER_NS, text)))

    def _remembered(self, key: object, made: Question) -> Question:
        if len(self._questions) >= _MAX_REMEMBERED:
            self._questions.clear()
        return self._questions.setdefault(key, made)

    def _asked(self, flow: Flow) -> tuple[object, Question]:
        """Return the question about a record, and what it depends on. Raises UnsayableError."""
        subject, peer = flow.subject, flow.peer
        protocol, subject_ip, peer_ip = connection_of(flow)
        apart, alike = self._apart(subject.namespace)
        subjects = self._pods.choices(subject, subject_ip, apart.labels)
        peers: tuple[Choice | None, ...] = (None,)
        if peer.pod_name:
            peers = self._pods.choices(peer, peer_ip, apart.labels)
        # A pod is never a node.
        is_node = not peer.pod_name and (bool(peer.node_name) or peer_ip in self._node_ips or flow.reason == NODE)
        scope = Scope(subject.namespace, peer.namespace if peer.pod_name else "", is_node)
        is_held = not (self._pods.is_surely(subject_ip, subject) and self._pods.is_surely(peer_ip, peer))
        place = peer_ip if is_node else apart.stretch(peer_ip)
        key = (
            scope, tuple(alike.pods(*one) for one in subjects), tuple(one and alike.pods(*one) for one in peers),
            place, subject_ip == peer_ip, flow.connection.direction, protocol,
            alike.port(flow.connection.dest_port), flow.protocol,
            flow.disposition, flow.reason, flow.policies, flow.isolated_by, is_node and flow.node_name,
            is_held and (subject_ip, subject.pod_uid, peer_ip, peer.pod_uid),
        )  # fmt: skip
        stretches = self._stretches_of(scope)
        return key, Question(
            flow, None, subjects, peers, subject_ip, peer_ip, protocol, scope, stretches, is_held
        )  # fmt: skip

    def _apart(self, namespace: str) -> _Apart:
        """Return what the policies of the window tell apart."""
        found = self._distinguished.get(namespace)
        if found is None:
            # The smallest scope: whenever a larger one is known, this one is, too, and has the same policies.
            views = [one.view for one in self._stretches_of(Scope(namespace)).segments]
            distinctions = Distinctions.of(views, namespace, self._pods.left_out)
            found = self._distinguished[namespace] = _Apart(Distinguished(distinctions), Alike(views, namespace))
        return found

    # --- what the policies of the time say

    def _stretches_of(self, scope: Scope) -> Stretches:
        found = self._stretches.get(scope)
        if found is None:
            since, until = max(0, self._window[0] - self.delay_ns), self._window[1] + self.after_ns
            segments = self._timeline.segments(scope, since, until)
            # The end of what the journal has is a border, too: later, it cannot be said that something disagrees.
            edges = {edge for one in segments for edge in one[:2]} | {self._timeline.last_ns}
            bounds = {edge + shift for edge in edges for shift in (0, self.delay_ns, -self.after_ns)}
            found = self._stretches[scope] = Stretches(segments, sorted(bounds))
        return found

    def _agreeing(self, question: Question, at_ns: int) -> tuple[int, int] | None:
        """Return a span around a time in which records surely agree with their own moment; None if there is none."""
        found = question.stretches.fitting(
            at_ns, lambda one: all(self._fitting(question, one)[0]), self.delay_ns, self.after_ns
        )
        if found is None:
            return None
        whole, sure = found
        is_sure = sure[0] <= at_ns < sure[1]
        if is_sure and (self._epochs is None or self._epochs):
            return sure
        # Without what nodes say, it does not matter what happens near it.
        return None if self.epochs else whole

    def _near(self, question: Question, at_ns: int, last_ns: int) -> list[Segment]:
        """Return the segments that may have been in force in a time."""
        return question.stretches.near(at_ns, max(0, at_ns - self.delay_ns), last_ns + self.after_ns)

    def _outcome(self, question: Question, near: Sequence[Segment], at_ns: int, last_ns: int) -> tuple[Outcome, str]:
        doubt, first = "", None
        for segment in near:
            agreeing, decision = self._fitting(question, segment)
            if all(agreeing):
                own = segment.since_ns <= at_ns < segment.until_ns
                return (Outcome.AGREES if own else Outcome.LATE), ""
            if any(agreeing):
                doubt = "it depends on which labels or named ports its pods had"
            first = first or decision
        why = doubt or self._unknown(question, max(0, at_ns - self.delay_ns), last_ns + self.after_ns)
        if why or first is None:
            return Outcome.CANNOT_SAY, why or "nothing is known of its time"
        return Outcome.DISAGREES, f"the policies of its time: {in_words(first)}"

    # --- what the record's node had in force

    def _is_nodes(self, question: Question, near: Sequence[Segment], outcome: Outcome) -> bool:
        """Return whether it depends on what the node had in force whether a record agrees."""
        return (
            outcome in (Outcome.AGREES, Outcome.LATE)
            and not all(all(self._fitting(question, one)[0]) for one in near)
            and bool(self.epochs)
        )

    def _of_node(
        self, question: Question, near: Sequence[Segment], at_ns: int, last_ns: int, ring: str, place: int | None = None
    ) -> tuple[Outcome, str] | None:
        """Return what becomes of a record by the policies that its node had in force; None if it is not known which.

        ``place``: as in :attr:`Question.answers`."""
        chosen = self.epochs.at(ring, at_ns, last_ns)
        if chosen is None:
            return None
        if place is None:
            return self._by_versions(question, near, at_ns, last_ns, chosen)
        key = question, place, chosen
        if key not in self._of_nodes:
            if len(self._of_nodes) >= _MAX_OF_NODES:
                self._of_nodes.clear()
            self._of_nodes[key] = self._by_versions(question, near, at_ns, last_ns, chosen)
        return self._of_nodes[key]

    def _by_versions(
        self, question: Question, near: Sequence[Segment], at_ns: int, last_ns: int, chosen: frozenset[Versions]
    ) -> tuple[Outcome, str] | None:
        """Return what becomes of a record by some sets of policies; None if these do not tell more."""
        possible = self._narrowing.possible(near, [one.pod for one in question.subjects], chosen)
        if possible is None:
            return None
        outcome, text = self._outcome(question, possible, at_ns, last_ns)
        if outcome is Outcome.DISAGREES:
            text = f"the policies that its node had in force{text.removeprefix('the policies of its time')}"
        return outcome, text

    @staticmethod
    def _fitting(question: Question, segment: Segment) -> tuple[list[bool], Decision]:
        """Return which of the possible pods the policies of a segment would have decided about as was recorded, and
        what they decide about the first."""
        known = question.fitting.get(segment.since_ns)
        if known is None:
            found = [decided(question, segment.view, *pair) for pair in product(question.subjects, question.peers)]
            known = [fits(decision, question.flow) for decision in found], found[0]
            question.fitting[segment.since_ns] = known
        return known

    def _unknown(self, question: Question, since_ns: int, until_ns: int) -> str:
        """Return why a record that nothing explains cannot be said to disagree; empty if it can."""
        if question.flow.reason not in JUDGED:
            return f"{question.flow.reason}: policies do not allow it now, and it may be older than they are"
        if question.flow.reason == NODE:
            return f"the API does not say that {question.peer_ip} is an address of node {question.flow.node_name}"
        if until_ns > self._timeline.last_ns:
            return f"the journal is known to be complete up to {moment(self._timeline.last_ns)}, and not later"
        return self._timeline.unknown(question.scope, since_ns, until_ns)
