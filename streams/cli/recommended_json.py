"""Recommended policies, their evidence and their proof as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from enrich.history.advice import manifest
from enrich.history.advice.proof import Proof
from enrich.history.advice.recommend import Advice, RecommendedRule
from enrich.history.advice.traffic import Evidence, LeftOut, Question, Traffic
from enrich.history.moments import moment
from enrich.wire.pair import PairKey
from streams.cli.recommended_text import Frame, peer_text, question_text

Json = dict[str, Any]


def as_json(advice: Advice, traffic: Traffic, proof: Proof, frame: Frame) -> Json:
    """Return everything about one namespace."""
    return {
        "namespace": advice.namespace,
        "cluster": frame.cluster,
        "since": moment(frame.since_ns),
        "until": moment(frame.until_ns),
        "notes": list(frame.notes),
        "instead_of": list(advice.replaced),
        "policies": [
            {
                "manifest": manifest.document(policy, audit=frame.audit),
                "for": [str(one) for one in policy.workloads],
                "also_selects": [str(one) for one in policy.also],
                "evidence": {
                    "ingress": [_rule(one, frame) for one in policy.ingress],
                    "egress": [_rule(one, frame) for one in policy.egress],
                },
            }
            for policy in advice.policies
        ],
        "needs_no_rule": counts(advice.without_rule),
        "left_out": [
            *(_left_out(why, question.key, found, frame) for (why, question), found in advice.unable.items()),
            *(_left_out(why, key, found, frame) for (why, key), found in traffic.left_out.items()),
        ],
        "proof": {
            "complete": proof.is_complete,
            "allowed": _sum(proof.allowed),
            "denied": _sum(proof.denied),
            "would_deny": [_question(one, found, frame) for one, found in proof.broken.items()],
            "would_allow": [_question(one, found, frame) for one, found in proof.opened.items()],
            "cannot_say": [_question(one, found, frame) for one, found in proof.unclear.items()],
        },
    }


def counts(found: Evidence) -> Json:
    """Return the counts of some evidence."""
    made: Json = {"connections": found.connections, "packets": found.packets}
    if found.last_ns:
        made |= {"first": moment(found.first_ns), "last": moment(found.last_ns)}
    if found.subjects:
        made |= {"profiles": len(found.subjects), "peers": len(found.peers)}
    if found.services:
        made["services"] = sorted(found.services)
    if found.examples:
        made["examples"] = list(found.examples)
    return made


def ends(key: PairKey, frame: Frame) -> Json:
    """Return a connection by its ends, for programs and in words."""
    return {
        "subject": msgspec.to_builtins(key.subject),
        "peer": msgspec.to_builtins(key.peer),
        "direction": key.direction,
        "protocol": key.protocol,
        "port": key.port,
        "text": question_text(key, frame.profiles),
    }


def _rule(rule: RecommendedRule, frame: Frame) -> list[Json]:
    return [{"peer": peer_text(scope, found, frame), **counts(found)} for scope, found in rule.peers]


def _left_out(why: LeftOut, key: PairKey, found: Evidence, frame: Frame) -> Json:
    return {"why": why.name.lower(), "text": why.value, **ends(key, frame), "verdict": key.verdict, **counts(found)}


def _question(question: Question, found: Evidence, frame: Frame) -> Json:
    return {**ends(question.key, frame), **counts(found)}


def _sum(found: Mapping[Question, Evidence]) -> Json:
    return {
        "distinct": len(found),
        "connections": sum(one.connections for one in found.values()),
        "packets": sum(one.packets for one in found.values()),
    }
