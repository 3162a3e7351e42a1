"""`weir diff`: what becomes allowed or denied when policies change, and what of that was used."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from enrich.history.advice.containment import LAST_PORT
from enrich.history.advice.difference import Change, Difference, Ports, TooManyKindsError
from enrich.history.advice.traffic import Evidence, LeftOut, Question, Traffic, question_of, traffic_of
from enrich.history.change import Change as PolicyChange
from enrich.history.distinctions import left_out_requirements
from enrich.history.judging import CANNOT_SAY, DENY, Judge
from enrich.history.moments import moment
from enrich.history.profile import all_left_out
from enrich.model import NetworkPolicy, Policy, Protocol
from enrich.policy.matching import Direction, PolicyView
from enrich.sources.manifest_documents import ManifestError
from streams.cli.advice_window import (
    CannotSayError,
    Window,
    exit_code,
    refuse_files,
    run_in_window,
    strict_option,
    window_options,
)
from streams.cli.backtest import read_policies
from streams.cli.recommended_json import counts, ends
from streams.cli.recommended_text import Frame, evidence_text, question_text
from streams.cli.terminal import listed, printable, say

CLUSTER: Final = "cluster"
_MAX_NAMED: Final = 8
"""Peers or ports named in one line; the JSON has them all."""
Json = dict[str, Any]
_Side = Mapping[tuple[str, str, str], Policy] | None
"""The policies of a folder by kind, namespace and name; None for those of the cluster."""


@click.command()
@click.argument("old")
@click.argument("new")
@strict_option
@click.option("--show", "most", type=click.IntRange(0), default=20, show_default=True, help="Connections in a list.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@window_options
def diff(old: str, new: str, most: int, output: str, *, strict: bool, **given: Any) -> None:
    """Say what becomes allowed or denied when the policies of OLD become those of NEW, and what of that was used.

    OLD and NEW are folders (or files) of manifests, or the word `cluster`: the policies as the cluster has them now.
    Policies that neither of the two names stay as they are in the cluster. So `weir diff cluster new/` is what
    `kubectl apply -f new/` would change, and `weir diff old/ new/` deletes what only OLD has. Workers note what
    was used if they have WEIR_PAIRS=1. Times are UTC.

    \b
    Exit 0: nothing that was used becomes denied. 1: something does. 2: the command or a file is wrong.
    3: it cannot say: Kafka cannot be read, or has nothing of this window; with --strict also if it cannot say of
    something that was allowed whether it becomes denied, or if pairs were not counted for a part of the window.
    """
    try:
        sides = [_policies(one) for one in (old, new)]
    except ManifestError as error:
        refuse_files(error)

    def answer(window: Window) -> int:
        found = _compare(window, sides[0], sides[1])
        frame = Frame(window.cluster, window.since_ns, window.until_ns, window.past.known.profiles)
        if output == "json":
            click.echo(json.dumps({**_as_json(found, frame), "notes": window.notes}))
        else:
            for line in _lines(found, frame, most):
                click.echo(printable(line))
            say(window.notes)
        doubts = strict and (found.has_doubts or window.has_losses)
        return exit_code(denies=bool(found.broken), said=found.is_said or not found.changes, doubts=doubts)

    run_in_window(given, answer)


def _policies(side: str) -> _Side:
    """Return the policies of one side; None for those of the cluster. Raises ManifestError."""
    if side == CLUSTER:
        return None
    path = Path(side)
    if not path.exists():
        raise ManifestError([f"{side}: there is no such file or folder; for the cluster's policies write {CLUSTER}"])
    return {(type(one).__name__, *one.key): one for one in read_policies([path])}


@dataclass(slots=True)
class _Found:
    """What changes, and what was used of it."""

    changes: list[Change]
    used: dict[int, Evidence] = field(default_factory=dict)
    """What was seen of each change, by its index."""
    broken: dict[Question, Evidence] = field(default_factory=dict)
    """Seen allowed, and denied by the new policies."""
    opened: dict[Question, Evidence] = field(default_factory=dict)
    """Seen denied, and allowed by the new policies."""
    unclear: dict[str, int] = field(default_factory=dict)
    """How many of the connections seen have no answer, by the reason."""
    is_said: bool = False
    """Whether there is an answer for anything that was seen."""
    has_doubts: bool = False
    """Whether there is none for something that was allowed."""

    def leave_open(self, why: str, *, passed: bool) -> None:
        """Note that there is no answer for a connection that was seen, which ``passed`` or was denied."""
        self.unclear[why] = self.unclear.get(why, 0) + 1
        self.has_doubts |= passed


def _compare(window: Window, old: _Side, new: _Side) -> _Found:
    # A policy that one of the sides names is only as this side has it.
    named = frozenset((*(old or ()), *(new or ())))
    has_tiers = any(kind != NetworkPolicy.__name__ for kind, _, _ in named)
    present = window.view(None if has_tiers else {namespace for _, namespace, _ in named})
    views = [
        present if side is None else PolicyChange(tuple(side.values()), named).applied(present) for side in (old, new)
    ]
    known = window.past.known
    difference = Difference(views[0], views[1], known.profiles)
    try:
        found = _Found(difference.changes())
    except TooManyKindsError as error:
        raise CannotSayError(str(error)) from error
    _judge_seen(found, difference, [Judge(known, view) for view in views], traffic_of(window.pairs(), known.profiles))
    window.notes += _assumed(views, all_left_out(known.profiles.values()))
    window.notes += [f"cannot say for {count} of the connections seen: {why}" for why, count in found.unclear.items()]
    for question, evidence in (*found.broken.items(), *found.opened.items()):
        for index, change in enumerate(found.changes):
            if difference.has(change, question):
                found.used.setdefault(index, Evidence()).merge(evidence)
    return found


def _judge_seen(found: _Found, difference: Difference, judges: Sequence[Judge], seen: Traffic) -> None:
    """Judge everything that was seen by both sides, as far as the change is about it."""
    # What passes with any policy of a namespace may be denied by one of the tiers: a pod that dials its own node.
    passed = {**seen.allowed, **seen.always}
    for (reason, key), evidence in seen.left_out.items():
        if reason is LeftOut.AUDIT:
            passed.setdefault(question_of(key), Evidence()).merge(evidence)
        elif reason is not LeftOut.NOT_POLICY and difference.concerns(key.subject.profile):
            found.leave_open(reason.value, passed=key.verdict != DENY)
    for questions, into, passes in ((passed, found.broken, True), (seen.denied, found.opened, False)):
        for question, evidence in questions.items():
            if not difference.concerns(question.subject):
                found.is_said = True
                continue
            before, after = (judge.judge(question.key) for judge in judges)
            if CANNOT_SAY in (before.verdict, after.verdict):
                found.leave_open(before.text or after.text, passed=passes)
                continue
            found.is_said = True
            if before.passes is passes and after.passes is not passes:
                into[question] = evidence


def _assumed(views: Iterable[PolicyView], left_out: Collection[str]) -> list[str]:
    """Return a note for each policy that asks for labels that profiles leave out."""
    found: dict[str, None] = {}
    for view in views:
        for policy in view.all_policies():
            if keys := sorted({one.key for one in left_out_requirements(policy, left_out)}):
                name = "/".join(part for part in (type(policy).__name__, *policy.key) if part)
                text = f"asks for {', '.join(keys)}, which profiles leave out: pods are taken to be without"
                found[f"{name} {text}"] = None
    return list(found)


def _lines(found: _Found, frame: Frame, most: int) -> Iterator[str]:
    """Yield the lines: each change, then the connections that were seen of what changes."""
    if not found.changes:
        yield "nothing becomes allowed or denied"
    for index, change in enumerate(found.changes):
        arrow = "<-" if change.direction is Direction.INGRESS else "->"
        who = ", ".join(map(str, change.workloads))
        peers = listed([name for peer in change.peers for name in peer.names], _MAX_NAMED)
        yield f"{change.becomes}: {change.namespace} {who} {arrow} {peers}: {ports_text(change.ports)}"
        used = found.used.get(index)
        yield f"    seen in the window: {evidence_text(used)}" if used else "    not seen in the window"
    for what, questions in (("becomes denied", found.broken), ("becomes allowed", found.opened)):
        ordered = sorted(questions.items(), key=lambda item: -item[1].connections)
        if ordered:
            yield f"seen, and {what}: {len(ordered)} distinct connections"
        for question, evidence in ordered[:most]:
            yield f"    {question_text(question.key, frame.profiles)}: {evidence_text(evidence)}"
        if len(ordered) > most:
            yield f"    and {len(ordered) - most} more (-o json lists them)"
    yield f"evidence: {frame.cluster}, {moment(frame.since_ns)} to {moment(frame.until_ns)}"


def ports_text(ports: Sequence[Ports]) -> str:
    """Return ranges of ports in words."""
    texts = []
    for one in ports:
        if not one.protocol:
            texts.append("ICMP and all other protocols")
        elif (one.first, one.last) == (1, LAST_PORT):
            texts.append(f"all {Protocol(one.protocol).name} ports")
        else:
            span = str(one.first) if one.first == one.last else f"{one.first}-{one.last}"
            texts.append(f"{span}/{Protocol(one.protocol).name}")
    return "everything" if len(texts) == len(Protocol) + 1 and _is_whole(ports) else listed(texts, _MAX_NAMED)


def _is_whole(ports: Sequence[Ports]) -> bool:
    return all(not one.protocol or (one.first, one.last) == (1, LAST_PORT) for one in ports)


def _as_json(found: _Found, frame: Frame) -> Json:
    """Return the answer for programs."""
    return {
        "schema": 1,
        "cluster": frame.cluster,
        "since": moment(frame.since_ns),
        "until": moment(frame.until_ns),
        "changes": [
            {
                "becomes": change.becomes,
                "namespace": change.namespace,
                "workloads": [str(one) for one in change.workloads],
                "direction": change.direction.name.lower(),
                "peers": [name for peer in change.peers for name in peer.names],
                "ports": [
                    {"protocol": one.protocol or None, "first": one.first, "last": one.last} for one in change.ports
                ],
                "seen": counts(found.used[index]) if index in found.used else None,
            }
            for index, change in enumerate(found.changes)
        ],
        "becomes_denied": [{**ends(key.key, frame), **counts(one)} for key, one in found.broken.items()],
        "becomes_allowed": [{**ends(key.key, frame), **counts(one)} for key, one in found.opened.items()],
    }
