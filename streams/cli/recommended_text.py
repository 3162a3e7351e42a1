"""Recommended policies as YAML, each rule with its evidence in a comment.

Names and labels come from the cluster, where whoever may create a pod chooses them. In the documents the YAML library
quotes them; a comment has printable ASCII only, so that no name ends it and begins a document of its own. What is
printed is read back by the strict parser before anybody sees it (:func:`read_back`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from enrich.history.advice import manifest
from enrich.history.advice.permits import workload_of
from enrich.history.advice.proof import Proof
from enrich.history.advice.recommend import Advice, RecommendedPolicy, RecommendedRule
from enrich.history.advice.scopes import BlockScope, PeerScope
from enrich.history.advice.traffic import Evidence, LeftOut, Question, Traffic, merged
from enrich.history.moments import moment
from enrich.model import NetworkPolicy
from enrich.parse import manifest_of
from enrich.parse.manifest import read_manifest
from enrich.render.template import PROTOCOLS
from enrich.wire.journal import Profile
from enrich.wire.pair import PairEnd, PairKey
from streams.cli.policy_yaml import dumped
from streams.cli.terminal import counted

MAX_LINES: Final = 20
"""Peers of a rule, or pairs that were left out for one reason, that comments list; the JSON has them all."""
_MAX_CHARACTERS: Final = 400
"""Longer comments are cut, because somebody chose the names in them."""
_WIDTH: Final = 116


class UnfaithfulError(Exception):
    """What would be printed is not what was proven. This is a fault of the program."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the head of each file says."""

    cluster: str
    since_ns: int
    until_ns: int
    profiles: Mapping[str, Profile]
    audit: bool = False
    notes: Sequence[str] = ()
    """What a person must know about the evidence."""
    for_reader: bool = False
    """As in :class:`streams.cli.advice_window.Window`."""


def as_yaml(advice: Advice, traffic: Traffic, proof: Proof, frame: Frame) -> str:
    """Return the file of one namespace: a comment that says what it is worth, then a document for each policy."""
    found = [comment for line in _head(advice, traffic, proof, frame) for comment in _comments(line)]
    for policy in advice.policies:
        found += ["---", *_policy(policy, frame)]
    return "\n".join(found) + "\n"


def read_back(text: str, advice: Advice, *, audit: bool) -> list[NetworkPolicy]:
    """Return the policies as the strict parser reads them. Raises :class:`UnfaithfulError` if one is refused or is not
    the recommended one."""
    made = []
    for document in yaml.safe_load_all(text):
        policy, mistakes = read_manifest(document)
        if mistakes or not isinstance(policy, NetworkPolicy):
            raise UnfaithfulError(f"the parser refuses a policy of namespace {advice.namespace}: {mistakes}")
        made.append(policy)
    expected = [manifest.document(policy, audit=audit) for policy in advice.policies]
    if [one for one, _ in map(read_manifest, expected)] != made:
        raise UnfaithfulError(f"the YAML for namespace {advice.namespace} is not what was recommended")
    return made


def proof_lines(proof: Proof, profiles: Mapping[str, Profile]) -> Iterator[str]:
    """Yield what the proof found, the sums first."""
    kept, broken = merged(proof.allowed.values()), merged(proof.broken.values())
    denied, opened = merged(proof.denied.values()), merged(proof.opened.values())
    share = "100 %" if not proof.broken else f"{100 * kept.connections / (kept.connections + broken.connections):.3f} %"
    judged = " that can be judged" if proof.unclear else ""
    yield (
        f"proof: allows {share} of the observed allows{judged}: {counted(kept.connections, 'connection')} "
        f"({len(proof.allowed)} distinct); would deny {counted(broken.connections, 'connection')} ({len(proof.broken)})"
    )
    yield (
        f"proof: allows {'none' if not proof.opened else len(proof.opened)} of the observed denies: "
        f"{counted(denied.packets, 'packet')} ({len(proof.denied)} distinct) stay denied"
        + (f"; would allow {counted(opened.packets, 'packet')}" if proof.opened else "")
    )
    if proof.unclear:
        unclear = merged(proof.unclear.values())
        yield f"proof: cannot say of {counted(unclear.connections, 'verdict')} ({len(proof.unclear)} distinct)"
    for what, found in (("would deny", proof.broken), ("would allow", proof.opened), ("cannot say", proof.unclear)):
        for question, evidence in _largest(found):
            yield f"{what}: {question_text(question.key, profiles)}: {evidence_text(evidence)}"
        if len(found) > MAX_LINES:
            yield f"{what}: and {len(found) - MAX_LINES} more (-o json lists them)"


def question_text(key: PairKey, profiles: Mapping[str, Profile]) -> str:
    """Return a connection in words: who, in which direction, with whom, on which port."""
    arrow = "->" if key.direction == "egress" else "<-"
    protocol = PROTOCOLS.get(key.protocol, str(key.protocol))
    port = f", {protocol}" if protocol.startswith("icmp") or not key.port else f", {key.port}/{protocol.upper()}"
    return f"{end_text(key.subject, profiles)} {arrow} {end_text(key.peer, profiles)}{port}"


def end_text(end: PairEnd, profiles: Mapping[str, Profile]) -> str:
    """Return an end in words."""
    if end.profile:
        profile = profiles.get(end.profile)
        found = workload_of(end.profile, profile) if profile else None
        return f"{found.namespace} {found}" if found else f"{end.namespace} {end.workload or end.profile}"
    if end.unknown:
        return "an end that is not known for certain"
    if end.node:
        return f"node {end.node}"
    return f"{end.block}{' (coarse)' if end.coarse else ''}" if end.block else "an end without an address"


def evidence_text(found: Evidence) -> str:
    """Return the counts of some evidence in words."""
    text = f"{counted(found.connections, 'connection')}, {moment(found.first_ns)} to {moment(found.last_ns)}"
    if len(found.subjects) > 1:
        text += f", {len(found.subjects)} profiles"
    if len(found.peers) > 1:
        text += f", {len(found.peers)} peers"
    services = sorted(found.services)
    return text + (f", dialled as Service {', '.join(services[:3])}" if services else "")


def _head(advice: Advice, traffic: Traffic, proof: Proof, frame: Frame) -> Iterator[str]:
    yield (
        f"NetworkPolicies for namespace {advice.namespace} of cluster {frame.cluster}, recommended by weir from what "
        f"was seen from {moment(frame.since_ns)} to {moment(frame.until_ns)}"
    )
    yield from frame.notes
    yield from proof_lines(proof, frame.profiles)
    if advice.replaced:
        yield f"the proof is for these policies instead of: {', '.join(advice.replaced)}"
    if advice.without_rule.connections:
        yield (
            f"no rule is needed for {counted(advice.without_rule.connections, 'connection')}: a pod's own node (probes "
            "of the kubelet), itself, or what a policy of the Admin tier accepts"
        )
    yield from _left_out(advice, traffic, frame.profiles)


def _left_out(advice: Advice, traffic: Traffic, profiles: Mapping[str, Profile]) -> Iterator[str]:
    """Yield what the policies leave out, and why: the reason, then the largest pairs."""
    found: dict[LeftOut, dict[Question, Evidence]] = {}
    for (why, question), evidence in advice.unable.items():
        found.setdefault(why, {})[question] = evidence
    for (reason, key), evidence in traffic.of(advice.namespace).left_out.items():
        found.setdefault(reason, {})[Question(key)] = evidence
    own = traffic.of(advice.namespace)
    for text, questions in [("denied by policy", own.denied), *((why.value, found[why]) for why in found)]:
        if questions:
            yield f"left out ({text}): {len(questions)} distinct"
        for question, evidence in _largest(questions):
            yield f"  {question_text(question.key, profiles)}: {evidence_text(evidence)}"
        if len(questions) > MAX_LINES:
            yield f"  and {len(questions) - MAX_LINES} more"


def _policy(policy: RecommendedPolicy, frame: Frame) -> Iterator[str]:
    who = ", ".join(map(str, policy.workloads)) or "every pod of the namespace"
    yield from _comments(f"for {who}")
    if policy.also:
        yield from _comments(f"no labels tell these pods from {', '.join(map(str, policy.also))}: it selects both")
    yield from _dump(manifest.head(policy, audit=frame.audit))
    for field, peers, rules in (("ingress", "from", policy.ingress), ("egress", "to", policy.egress)):
        if rules:
            yield f"  {field}:"
        for rule in rules:
            for line in _evidence(rule, peers, frame):
                yield from _comments(line, "  ")
            yield from _dump([manifest_of.rule(rule.rule(policy.scope.namespace), peers)], "  ")


def _evidence(rule: RecommendedRule, peers: str, frame: Frame) -> Iterator[str]:
    for scope, evidence in rule.peers[:MAX_LINES]:
        yield f"{peers} {peer_text(scope, evidence, frame)}: {evidence_text(evidence)}"
    if len(rule.peers) > MAX_LINES:
        rest = merged(evidence for _, evidence in rule.peers[MAX_LINES:])
        yield f"{peers} {len(rule.peers) - MAX_LINES} more: {evidence_text(rest)}"


def peer_text(scope: PeerScope, evidence: Evidence, frame: Frame) -> str:
    if isinstance(scope, BlockScope):
        if scope.node:
            return f"node {scope.node} (its addresses; another node needs a rule of its own)"
        return f"{', '.join(scope.blocks)}{' (coarse: it stands for further addresses)' if scope.coarse else ''}"
    profiles = frame.profiles
    seen = {workload_of(number, profiles[number]) for number in evidence.peers if number in profiles}
    selected = {workload_of(number, one) for number, one in profiles.items() if scope.has(one)}
    text = f"{scope.namespace} {', '.join(map(str, sorted(seen)))}"
    also = sorted(selected - seen)
    named = f"{len(also)} more" if frame.for_reader else ", ".join(map(str, also))
    return f"{text} (and {named}, which the selector has, too)" if also else text


def _dump(part: Any, indent: str = "") -> Iterator[str]:
    yield from textwrap.indent(dumped(part), indent).rstrip("\n").split("\n")


def _comments(text: str, indent: str = "") -> Iterator[str]:
    """Yield the lines of a comment: printable ASCII only, because YAML ends a comment at each of several characters."""
    safe = "".join(one if " " <= one <= "~" else "?" for one in text)
    cut = safe if len(safe) <= _MAX_CHARACTERS else safe[:_MAX_CHARACTERS] + "..."
    begin = " " * (len(cut) - len(cut.lstrip()))
    lines = textwrap.wrap(cut.strip(), _WIDTH - len(indent) - len(begin), break_on_hyphens=False) or [""]
    yield f"{indent}# {begin}{lines[0]}"
    yield from (f"{indent}# {begin}  {line}" for line in lines[1:])


def _largest(found: Mapping[Question, Evidence]) -> Iterable[tuple[Question, Evidence]]:
    return sorted(found.items(), key=lambda item: -item[1].connections)[:MAX_LINES]
