"""Ten routes as an operator may write them, which together look at every field, in variants by what they match."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

MATCHED: Final = {
    "nothing": "that match nothing",
    "some": "that match 1 in 7",
    "everything": "of which one matches all",
}
"""The variants and their names in the table. A record that a route matches is produced once more, which is not part of
the cost of matching."""
_Match = tuple[dict[str, Any], dict[str, Any]]


def write_routes(path: Path, prefix: str, matched: str) -> None:
    """Write the routes file of a variant. Its topics have names with the prefix."""
    matches = _some() if matched == "some" else _none()
    if matched == "everything":
        matches[9] = ({}, {})
    routes: list[dict[str, Any]] = [
        {
            "name": f"route-{number}",
            "match": match,
            "outputs": [{"kafka": {"topic": f"{prefix}.route-{number}"} | more}],
        }
        for number, (match, more) in enumerate(matches)
    ]
    if matched == "some":
        # This route matches allowed connections to the outside, which an operator would sample.
        routes[9]["sample"] = 0.1
    path.write_text(yaml.safe_dump({"version": 1, "routes": routes}))


def _some() -> list[_Match]:
    return [
        ({"verdict": "deny", "subject": {"namespace": "team-1"}}, {}),
        ({"verdict": ["deny", "audit"], "direction": "ingress", "port": ["1-1023"]}, {"format": "lines"}),
        ({"verdict": "deny", "peer": {"cidr": "203.0.0.0/16"}}, {}),
        ({"either": {"labels": {"matchLabels": {"app": "app-7"}}}, "port": 5432}, {"format": "lines"}),
        ({"subject": {"workload": "ReplicaSet/app-12"}}, {}),
        ({"policy": "team-3/policy-3", "verdict": "deny"}, {"compression": "zstd"}),
        ({"node": "n3", "reason": "default_deny", "protocol": "tcp"}, {"format": "lines"}),
        ({"src": {"pod": "team-2/app-2-*"}, "dest": {"namespace": "team-2"}}, {}),
        ({"service": "team-1/*"}, {}),
        ({"direction": "egress", "peer": {"cidr": ["203.0.0.0/16", "fd00::/8"]}}, {"format": "lines"}),
    ]


def _none() -> list[_Match]:
    """Return the same conditions, each with one more that no record fulfils."""
    return [({**match, "node": "nowhere"}, more) for match, more in _some()]
