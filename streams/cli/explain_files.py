"""`weir explain` of a repository: pods that stand for workloads, and whose addresses are not known.

Where policies have blocks of addresses (``ipBlock``), a connection is judged for each way in which the blocks can tell
the addresses of its ends apart. If the answers differ, the answer depends on the address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from enrich.explain.explanation import MIXED, EndReport, Explanation, explain_connection
from enrich.explain.query import EndQuery
from enrich.history.advice.suggestion import Suggestion, suggest
from enrich.history.distinctions import Distinctions, stretches
from enrich.history.stand_ins import EVERYWHERE
from enrich.model import Service
from enrich.policy.matching import PolicyView
from enrich.sources.manifest_documents import STDIN, ManifestError
from enrich.sources.repository import read_repository, skipped_text
from enrich.sources.repository_cluster import Delivered, deliver

_MAX_STRETCHES: Final = 64
"""Ranges of addresses that policies tell apart, at most. Each end may be in each of them."""


def explain_files(
    folder: Path, source: EndQuery, destination: EndQuery
) -> tuple[Explanation, Callable[[], Suggestion]]:
    """Return the answer from the files below a folder, or from standard input (``-``), and a function that
    returns what would allow the connection. Raises ManifestError."""
    if folder != STDIN and not folder.is_dir():
        raise ManifestError([f"{folder} is not a folder, so no manifests can be read from it"])
    repository = read_repository([folder])
    if repository.problems:
        raise ManifestError(repository.problems)
    delivered = deliver(repository)
    services = {one.key: one for one in delivered.objects if isinstance(one, Service)}
    notes = list(dict.fromkeys(_notes(delivered, source, destination)))
    notes += (f"{place}: {text}: {todo}" for place, text, todo in repository.unrendered)
    if repository.skipped:
        notes.append(f"policies do not depend on what was not read: {skipped_text(repository.skipped)}")
    view = _with_every_address(delivered, source, destination)
    found = _shortened(explain_connection(view, services, source, destination, notes), delivered)
    return found, partial(suggest, view, services, source, destination)


def _notes(delivered: Delivered, *ends: EndQuery) -> Iterator[str]:
    """Yield what a person must know about the pods of a question, and about their namespaces."""
    for name in dict.fromkeys(end.pod for end in ends if end.pod is not None):
        if name in delivered.invented:
            kind, _, workload = delivered.sources[name]
            stands = "" if kind == "Pod" else f"stands for the pods of {kind} {workload}: "
            yield f"{name} {stands}its address is invented"
        if name in delivered.pods and name.namespace in delivered.assumed:
            yield f"no file has namespace {name.namespace}: of its labels only its name is known"


def _with_every_address(delivered: Delivered, *ends: EndQuery) -> PolicyView:
    """Return the cluster in which each end whose address is invented has one in each range that the policies tell
    apart. Raises ManifestError if they are too many."""
    view = delivered.view()
    names = list(dict.fromkeys(end.pod for end in ends if end.pod is not None))
    blocks = {net for name in names for net in Distinctions.of([view], name.namespace, ()).blocks}
    ranges = [one for one in EVERYWHERE if any(block.version == one.version for block in blocks)]
    starts = stretches(ranges, blocks) if blocks else []
    if len(starts) > _MAX_STRETCHES:
        raise ManifestError(
            [f"policies tell {len(starts)} ranges of addresses apart, and pods may be in each: ask the cluster instead"]
        )
    pods = dict(view.pods)
    for number, name in enumerate(one for one in names if one in delivered.invented):
        # Both ends need addresses of their own: a pod always reaches itself.
        later = (str(ipaddress.ip_address(start) + number) for start in starts)
        ips = [ip for ip in later if ip not in starts] if number else starts
        pods[name] = msgspec.structs.replace(pods[name], ips=(*pods[name].ips, *ips))
    return replace(view, pods=pods)


def _shortened(found: Explanation, delivered: Delivered) -> Explanation:
    """Return the explanation with one answer for each verdict, where an end stands for many addresses."""
    ends = {found.source.name, found.destination.name}
    if ends.isdisjoint(map(str, delivered.invented)) or not found.answers:
        return found
    by_verdict = {answer.verdict: answer for answer in reversed(found.answers)}
    answers = tuple(sorted(by_verdict.values(), key=found.answers.index))
    kept = {ip for answer in answers for ip in (answer.source_ip, answer.destination_ip)}
    shown = [_with_ips(end, kept) for end in (found.source, found.destination)]
    found = msgspec.structs.replace(found, source=shown[0], destination=shown[1], answers=answers)
    if found.verdict != MIXED:
        return msgspec.structs.replace(found, answers=answers[:1])
    text = "it depends on the addresses that the pods will have, because a policy has blocks of addresses (ipBlock)"
    return msgspec.structs.replace(found, text=text)


def _with_ips(end: EndReport, kept: Collection[str]) -> EndReport:
    return msgspec.structs.replace(end, ips=tuple(ip for ip in end.ips if ip in kept))
