"""The demo's summary: compares its records with what the connections saw."""

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
from prometheus_client.samples import Sample
from stack import DemoError, script

_LOST = (
    "kubeweir_probe_lost_verdicts_total",
    "kubeweir_streams_gap_verdicts_total",
    "kubeweir_streams_lost_verdicts_total",
    "kubeweir_streams_dead_letters_total",
    "kubeweir_streams_expired_batches_total",
)
_VERDICTS = ("kubeweir_probe_verdicts_total",)


def records(env: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return every record of the flows topic."""
    done = subprocess.run(
        [script("weir"), "observe", "-o", "json", "--since", "1h"],
        env=dict(env), capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def lost(urls: Sequence[str]) -> int:
    """Return how many verdicts or batches the services count as lost, missing or refused."""
    return _total(urls, _LOST)


def missing_verdicts(urls: Sequence[str], flows: Sequence[Mapping[str, Any]]) -> int:
    """Return how many verdicts the probe has read that are not a record, whatever the loss counters say."""
    return max(0, _total(urls, _VERDICTS) - len({flow["id"] for flow in flows}))


def _total(urls: Sequence[str], names: Sequence[str]) -> int:
    """Return the sum of the samples of these metrics. Raises DemoError."""
    return int(sum(one.value for url in urls for one in _samples(url) if one.name in names))


def sample(url: str, name: str, **labels: str) -> int:
    """Return the sample of a metric with these labels, 0 if there is none. Raises DemoError."""
    return int(sum(one.value for one in _samples(url) if one.name == name and one.labels == labels))


def _samples(url: str) -> list[Sample]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - loopback
            families = list(text_string_to_metric_families(answer.read().decode()))
    except OSError as error:
        raise DemoError(f"{url} does not answer: {error}") from error
    return [one for family in families for one in family.samples]


def records_of(attempt: Attempt, family: int, flows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the records about an attempt, from either end."""
    index = 1 if family == 6 else 0
    source, destination = ADDRESSES[attempt.source][index], ADDRESSES[attempt.destination][index]
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
    """Return what is wrong with the records about an attempt, None if nothing is."""
    found = records_of(attempt, family, flows)
    expected = "allow" if attempt.allowed else "deny"
    ends = [flow for flow in found if flow["disposition"] == expected]
    if not ends:
        return f"no record says {expected}"
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


def summarize(flows: Sequence[Mapping[str, Any]], lost_verdicts: int) -> list[str]:
    """Render the summary, one string per line."""
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
