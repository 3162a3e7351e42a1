"""Why a row is as it is, in the product's own words."""

from __future__ import annotations

from enrich.model import Name
from enrich.policy import Decision, Direction, Endpoint, decide
from tests.conformance.case import Row
from tests.conformance.state import State


def explain(state: State, row: Row) -> str:
    """What each end with policies of its own says of a row."""
    sides = [
        _side(state, row, Direction.EGRESS, row.source, row.destination),
        _side(state, row, Direction.INGRESS, row.destination, row.source),
    ]
    return "; ".join(side for side in sides if side) or "no end has policies"


def _side(state: State, row: Row, direction: Direction, subject: str, peer: str) -> str:
    spec = state.pod(subject)
    if spec is None:
        return ""
    view = state.view(spec.node)
    seen = view.pods.get(Name(*peer.split("/"))) if state.pod(peer) else None
    decision = decide(
        view,
        view.pods[Name(spec.namespace, spec.name)],
        direction,
        Endpoint(state.ip(peer), seen),
        row.protocol,
        row.port,
    )
    return f"{direction.name.lower()} of {subject}: {_in_words(decision)}"


def _in_words(decision: Decision) -> str:
    refs = ", ".join(
        f"{ref.kind} {ref.namespace}/{ref.name}" + (f" rule {ref.rule}" if ref.rule is not None else "")
        for ref in decision.policies
    )
    reason = decision.reason.name.lower().replace("_", " ")
    return f"{'allow' if decision.allowed else 'deny'} ({reason}{': ' + refs if refs else ''})"
