"""``python -m tests.bench_policy [--quick] [--json FILE]``: how long policy takes from the index to the kernel's maps.

It runs the compiler and the installer on the maps of a loaded program, for which it needs root. The clusters have 100,
1,000 and 10,000 pods, a tenth as many policies, and up to 100 local pods. Times are medians in milliseconds. "new pod"
and "changed policy" end when the epoch has switched, which brings the change into force; "whole" ends when the old
epoch's entries are cleaned up too. The growth is the ratio of the medians from one size to the next.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import resource
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from enrich.index.cluster import KINDS, Change, Cluster
from enrich.model import ClusterNetworkPolicy, Name, Namespace, NetworkPolicy, Pod, Rule
from enrich.parse.objects import parse
from enrich.policy.decide import isolates
from enrich.policy.matching import Direction, PolicyView
from probe.kernel.endpoints import Bound
from probe.kernel.installer import Installer
from probe.kernel.layout import Config
from probe.kernel.maps import Maps
from probe.ledger import Ledger
from probe.policy.compiler import Compiler
from tests import programs

SIZES = (100, 1_000, 10_000)
LIMITS_MS = {"first compile": 3000.0, "new pod": 20.0, "changed policy": 100.0}
LIMIT_MB = 300
APPS = ("web", "api", "db", "cache", "worker")
MAP_SIZES = {
    "RING_BYTES": 1 << 16, "CONNECTIONS": 1024, "ADDRESSES": 1 << 16, "POLICY_ENTRIES": 1 << 19,
    "PORT_ENTRIES": 1 << 16, "DENIED_FLOWS": 1024, "ENDPOINTS": 1024, "FRAGMENTS": 1024, "LOCAL_ADDRESSES": 1024,
}  # fmt: skip


def objects(pods: int, local: int) -> list[Any]:
    """Return the objects of a cluster as the index stores them."""
    return [parse(document) for document in documents(pods, local)]


def documents(pods: int, local: int) -> list[dict[str, Any]]:
    """Return the API objects: five apps and ten policies in each namespace, four policies for the whole cluster."""
    policies = max(10, pods // 10)
    namespaces = max(1, policies // 10)
    made = [_object("v1", "Namespace", f"ns{n}", labels={"team": f"t{n % 7}"}) for n in range(namespaces)]
    nodes = max(2, pods // 100)
    made += [
        _object("v1", "Node", f"node{n}", status={"addresses": [{"type": "InternalIP", "address": _ip(192, n + 1)}]})
        for n in range(nodes)
    ]
    made += [pod(number, namespaces, "node0" if number * 7919 % pods < local else f"node{1 + number % (nodes - 1)}")
             for number in range(pods)]  # fmt: skip
    made += [policy(number, namespaces) for number in range(policies - 4)]
    made += [cluster_policy(number) for number in range(4)]
    return made


def pod(number: int, namespaces: int, node: str) -> dict[str, Any]:
    """Make a pod of an app. Each app of a namespace has its own pod-template-hash, as a Deployment has."""
    namespace, app = number % namespaces, APPS[number // namespaces % len(APPS)]
    labels = {"app": app, "tier": "front" if app == "web" else "back", "pod-template-hash": f"{namespace:x}{app}"}
    return _object(
        "v1", "Pod", f"p{number}", namespace=f"ns{namespace}", labels=labels,
        spec={"nodeName": node, "containers": [
            {"name": "main", "image": "none", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]},
        ]},
        status={"podIPs": [{"ip": _ip(10, number + 1)}], "phase": "Running"},
    )  # fmt: skip


def policy(number: int, namespaces: int, port: int = 8080) -> dict[str, Any]:
    """Make a policy of one of ten common kinds."""
    app = APPS[number // namespaces % len(APPS)]
    spec: dict[str, Any] = {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"]}
    kind = number // namespaces % 10
    friend = {"podSelector": {"matchLabels": {"app": APPS[kind % len(APPS)]}}}
    match kind:
        case 0:
            spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        case 1 | 2 | 3 | 4:
            spec["ingress"] = [{"from": [friend], "ports": [{"port": port}, {"port": "http"}]}]
        case 5:
            other = {"namespaceSelector": {"matchLabels": {"team": f"t{number % 7}"}}, **friend}
            spec["ingress"] = [{"from": [other], "ports": [{"port": 9000, "endPort": 9100}]}]
        case 6:
            block = {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "192.168.0.0/16"]}
            spec |= {"policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": block}], "ports": [{"port": 443}]}]}
        case 7:
            spec |= {"policyTypes": ["Egress"], "egress": [{"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]}]}
        case _:
            spec |= {"policyTypes": ["Egress"], "egress": [{"to": [friend], "ports": [{"port": "http"}]}]}
    return _object(
        "networking.k8s.io/v1", "NetworkPolicy", f"np{number}", namespace=f"ns{number % namespaces}", spec=spec
    )


def cluster_policy(number: int) -> dict[str, Any]:
    """Make an administrator's policy: metrics from everywhere, no metadata service, none from a team, or a baseline."""
    spec: dict[str, Any] = {"tier": "Admin", "priority": number, "subject": {"namespaces": {}}}
    everybody: list[dict[str, Any]] = [{"namespaces": {}}]
    match number:
        case 0:
            spec["ingress"] = [{"action": "Accept", "from": everybody,
                                "protocols": [{"tcp": {"destinationPort": {"number": 9090}}}]}]  # fmt: skip
        case 1:
            spec["egress"] = [{"action": "Deny", "to": [{"networks": ["169.254.169.254/32"]}]}]
        case 2:
            spec["ingress"] = [{"action": "Deny", "from": [{"namespaces": {"matchLabels": {"team": "t6"}}}]}]
        case _:
            spec |= {"tier": "Baseline", "ingress": [{"action": "Deny", "from": everybody}]}
    return _object("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", f"cnp{number}", spec=spec)


def _ip(first: int, number: int) -> str:
    return f"{first}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _object(version: str, kind: str, name: str, **rest: Any) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": name, **{key: rest.pop(key) for key in ("namespace", "labels") if key in rest}}
    return {"apiVersion": version, "kind": kind, "metadata": meta, **rest}


@dataclass
class Bench:
    """One cluster with its maps, compiler and installer."""

    cluster: Cluster
    maps: Maps
    numbers: Ledger

    def __post_init__(self) -> None:
        self.compiler = Compiler(self.numbers)
        self.installer = Installer(self.maps)

    def view(self) -> PolicyView:
        return self.cluster.snapshot("node0")

    def run(self) -> dict[str, float]:
        """Compile and install; return the times in milliseconds and the number of entries that were written."""
        started = time.perf_counter()
        view = self.view()
        subjects = [made for made in view.pods.values() if made.node == "node0"]
        desired = self.compiler.compile(view, subjects)
        compiled = time.perf_counter()
        ends = [Bound(index + 1, index + 1, made.uid, made.ips) for index, made in enumerate(subjects)]
        in_force: list[float] = []
        done = self.installer.apply(desired, ends, 1, switched=lambda: in_force.append(time.perf_counter()))
        ended = time.perf_counter()
        return {
            "compile": 1e3 * (compiled - started),
            "in force": 1e3 * ((in_force or [ended])[0] - started),
            "whole": 1e3 * (ended - started),
            "entries": done.addresses + done.endpoints + done.policy_entries + done.port_entries,
        }


def measure(size: int, rounds: int, folder: Path, pins: Path) -> dict[str, Any]:
    """Return the figures of one size."""
    local = min(100, size // 2)
    cluster = Cluster()
    grouped: dict[type, list[Any]] = {kind: [] for kind in KINDS}
    for made in objects(size, local):
        grouped[type(made)].append(made)
    cluster.replace_all(grouped)
    maps = Maps.open(pins / "v1", MAP_SIZES, cache=programs.CACHE)
    numbers = Ledger.open(folder / "ledger")
    try:
        bench = Bench(cluster, maps, numbers)
        gc.collect()
        first = bench.run()
        # The agent does this too after its first installation.
        gc.freeze()
        found: dict[str, Any] = {
            "pods": size, "policies": sum(map(len, (grouped[NetworkPolicy], grouped[ClusterNetworkPolicy]))),
            "local": local, "first compile": first["compile"], "first whole": first["whole"],
            "identities": bench.compiler.identity_count, "epoch": maps.config(Config.EPOCH),
            **{name: used for name, (used, _) in bench.installer.usage().items()},
        }  # fmt: skip
        for name, change in (
            ("new pod", _new_pod),
            ("changed policy", _changed_policy),
            ("changed cluster policy", _changed_cluster_policy),
        ):
            runs = [change(bench, number, grouped) for number in range(rounds)]
            for part in ("in force", "whole", "entries"):
                found[name if part == "in force" else f"{name} {part}"] = statistics.median(one[part] for one in runs)
        found["rss_mb"] = _rss_mb()
        return found
    finally:
        numbers.close()
        maps.close()
        shutil.rmtree(pins, ignore_errors=True)


def _new_pod(bench: Bench, number: int, grouped: dict[type, list[Any]]) -> dict[str, float]:
    """Add a pod with known labels on another node."""
    elsewhere = [made for made in grouped[Pod] if made.node != "node0"]
    old: Pod = elsewhere[number % len(elsewhere)]
    name = f"new{number}"
    made = msgspec.structs.replace(old, name=name, uid=name, ips=(_ip(11, number + 1),))
    bench.cluster.apply([Change("set", made)])
    return bench.run()


def _changed_policy(bench: Bench, number: int, grouped: dict[type, list[Any]]) -> dict[str, float]:
    """Change a policy that selects local pods: add a rule with another port and another peer."""
    view = bench.view()
    here = [made for made in view.pods.values() if made.node == "node0"]
    mine = [
        one
        for _, one in sorted(view.policies.items())
        if one.ingress and any(isolates(one, made, Direction.INGRESS) for made in here)
    ]
    old: NetworkPolicy = mine[number % len(mine)]
    namespaces = len(grouped[Namespace])
    friend: Any = parse(policy(namespaces * (1 + number % 4), namespaces, port=7000 + number))
    rules: tuple[Rule, ...] = (*(old.ingress or ()), *(friend.ingress or ()))
    bench.cluster.apply([Change("set", replace(old, ingress=rules))])
    return bench.run()


def _changed_cluster_policy(bench: Bench, number: int, grouped: dict[type, list[Any]]) -> dict[str, float]:
    """Change the priority of a policy that applies to every pod."""
    old = bench.view().cluster_policies[Name("", "cnp2")]
    bench.cluster.apply([Change("set", replace(old, priority=10 + number))])
    return bench.run()


def _rss_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(sizes: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Measure all sizes, each with its own maps, and compute the growth from one to the next."""
    results = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            pins = Path("/sys/fs/bpf") / f"kubeweir-bench-{secrets.token_hex(3)}"
            results.append(measure(size, rounds, Path(folder), pins))
    growth = [
        {name: round(after[name] / before[name], 2) for name in LIMITS_MS} | {"pods": after["pods"]}
        for before, after in itertools.pairwise(results)
    ]
    return {"sizes": results, "growth": growth, "limits_ms": LIMITS_MS, "limit_mb": LIMIT_MB, "rounds": rounds}


def table(figures: dict[str, Any]) -> str:
    """Render the figures as a table."""
    sizes = figures["sizes"]
    lines = [f"{'median ms':32}" + "".join(f"{one['pods']:>10,}" for one in sizes) + f"{'limit':>10}"]
    for name in sizes[0]:
        if name != "pods":
            limit = LIMITS_MS.get(name, LIMIT_MB if name == "rss_mb" else "")
            lines.append(f"{name:32}" + "".join(f"{one[name]:>10,.1f}" for one in sizes) + f"{limit:>10}")
    for one in figures["growth"]:
        grown = ", ".join(f"{name} x{one[name]}" for name in LIMITS_MS)
        lines.append(f"growth to {one['pods']:,} pods: {grown}")
    return "\n".join(lines)


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench_policy", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="measure only the two smallest sizes, with few rounds")
    parser.add_argument("--json", type=Path, help="file for the figures as JSON; default: print them")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("bench_policy: must run as root, to load the kernel program and make its maps", file=sys.stderr)
        return 2
    figures = run(SIZES[:2], 5) if options.quick else run(SIZES, 31)
    print(table(figures))
    text = json.dumps(figures, indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
