"""What the demo's records say, compared with what the connections saw."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pods import ADDRESSES, POD_NAMES, Attempt
from prometheus_client.parser import text_string_to_metric_families
from stack import DemoError, script

_LOST = (
    "kubeweir_probe_lost_verdicts_total",
    "kubeweir_streams_gap_verdicts_total",
    "kubeweir_streams_lost_verdicts_total",
    "kubeweir_streams_dead_letters_total",
    "kubeweir_streams_expired_batches_total",
)
_ROWS = ("kubeweir_probe_verdicts_total",)


def records(env: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every record of the flows topic."""
    done = subprocess.run(
        [script("weir"), "observe", "-o", "json", "--since", "1h"],
        env=dict(env), capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def lost(urls: Sequence[str]) -> int:
    """What the services count as lost, missing or refused."""
    return _total(urls, _LOST)


def missing_rows(urls: Sequence[str], flows: Sequence[Mapping[str, Any]]) -> int:
    """How many rows the probe has read that are no record, whatever the counters of losses say."""
    return max(0, _total(urls, _ROWS) - len({flow["id"] for flow in flows}))


def _total(urls: Sequence[str], names: Sequence[str]) -> int:
    """The sum of the samples of these names."""
    total = 0.0
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - loopback
                families = list(text_string_to_metric_families(answer.read().decode()))
        except OSError as error:
            raise DemoError(f"{url} does not answer: {error}") from error
        total += sum(sample.value for family in families for sample in family.samples if sample.name in names)
    return int(total)


def about(attempt: Attempt, family: int, flows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records about an attempt, at the ends that enforce."""
    side = 1 if family == 6 else 0
    source, destination = ADDRESSES[attempt.source][side], ADDRESSES[attempt.destination][side]
    protocol = {"icmp": "icmpv6" if family == 6 else "icmp"}.get(attempt.protocol, attempt.protocol)
    return [
        flow
        for flow in flows
        if _ip(flow, "src_ip") == ipaddress.ip_address(source)
        and _ip(flow, "dest_ip") == ipaddress.ip_address(destination)
        and flow["connection"]["protocol"] == protocol
        and flow["connection"].get("dest_port", 0) == attempt.port
    ]


def complaint(attempt: Attempt, family: int, flows: Sequence[Mapping[str, Any]]) -> str | None:
    """What is wrong with the records about an attempt, None if nothing is."""
    found = about(attempt, family, flows)
    wanted = "allow" if attempt.allowed else "deny"
    ends = [flow for flow in found if flow["disposition"] == wanted]
    if not ends:
        return f"no record says {wanted}"
    if attempt.allowed and any(flow["disposition"] == "deny" for flow in found):
        return "a record says deny"
    named = {f"{p['namespace']}/{p['name']}" for flow in ends for p in flow["policies"] + flow["isolated_by"]}
    if not set(attempt.policies) <= named:
        return f"policies {sorted(named)}, expected {sorted(attempt.policies)}"
    for flow in found:
        for name, end in ((attempt.source, flow["src"]), (attempt.destination, flow["dest"])):
            if name in POD_NAMES and f"{end.get('namespace')}/{end.get('pod_name')}" != POD_NAMES[name]:
                return f"{name} is called {end}"
    return None


def tell(flows: Sequence[Mapping[str, Any]], lost_verdicts: int) -> list[str]:
    """The summary, in lines."""
    dispositions = Counter(flow["disposition"] for flow in flows)
    packets = sum(flow["count"] for flow in flows if flow["disposition"] == "deny")
    allowed, isolated, families = Counter[str](), Counter[str](), Counter[tuple[int, str]]()
    for flow in flows:
        if address := _ip(flow, "src_ip"):
            families[address.version, flow["disposition"]] += 1
        allowed.update(f"{p['namespace']}/{p['name']}" for p in flow["policies"])
        isolated.update(f"{p['namespace']}/{p['name']}" for p in flow["isolated_by"])
    return [
        f"{len(flows)} verdicts: {dispositions['allow']} allowed, {dispositions['deny']} denied ({packets} packets)",
        *(f"  IPv{v}: {families[v, 'allow']} allowed, {families[v, 'deny']} denied" for v in (4, 6)),
        *(f"  allowed by {name}: {count}" for name, count in sorted(allowed.items())),
        *(f"  denied, isolated by {name}: {count}" for name, count in sorted(isolated.items())),
        f"lost: {lost_verdicts or 'none'}",
    ]


def _ip(flow: Mapping[str, Any], end: str) -> Any:
    text = flow["connection"].get(end)
    return ipaddress.ip_address(text) if text else None
