"""Ten routes as an operator may have them, that look at every field: by how much of the records they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

TAKEN: Final = {"nothing": "that take nothing", "some": "that take 1 in 7", "everything": "one takes all"}
"""Ten routes, in words. What they take is produced once more; that is not the cost of choosing it."""
_Match = tuple[dict[str, Any], dict[str, Any]]


def write_routes(path: Path, prefix: str, taken: str) -> None:
    """The file; topics are below the prefix."""
    matches = _some() if taken == "some" else _none()
    if taken == "everything":
        matches[9] = ({}, {})
    routes: list[dict[str, Any]] = [
        {
            "name": f"route-{number}",
            "match": match,
            "outputs": [{"kafka": {"topic": f"{prefix}.route-{number}"} | more}],
        }
        for number, (match, more) in enumerate(matches)
    ]
    if taken == "some":
        # Allowed connections to the outside by sample.
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
    """The same conditions, each with one that nothing fits."""
    return [({**match, "node": "nowhere"}, more) for match, more in _some()]
