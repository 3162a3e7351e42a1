"""A real Kubernetes on this machine: control plane, and nodes as namespaces with containerd, kubelet and kube-proxy."""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from kube import control, debian, demo, images, install, node
from kube.plan import CNIS, PROXIES, ROOT, ClusterError, Plan, kubeconfig
from kube.processes import last_lines, logs, run, running, wait_for
from kube.teardown import sweep

_ATTEMPTS = 10
_PAUSE_S = 0.1
"""A process counts as missing only if none of the attempts finds it."""


def main() -> int:
    arguments = parse()
    try:
        if arguments.command != "env":
            check_root()
        return int(arguments.work(arguments))
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return error.code


def check_root() -> None:
    if os.geteuid() != 0:
        raise ClusterError("must run as root: it makes namespaces", 3)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start a cluster and print how to use it; the first time, build what it needs")
    up.add_argument("--nodes", type=int, default=2, choices=range(1, 10), metavar="N", help="default: 2")
    up.add_argument("--cni", choices=CNIS, default=CNIS[0], help="default: ptp")
    up.add_argument("--proxy", choices=PROXIES, default=PROXIES[0], help="kube-proxy's mode, default: nftables")
    up.set_defaults(work=do_up)
    commands.add_parser("down", help="remove the cluster and everything that it has made").set_defaults(work=do_down)
    commands.add_parser(
        "env", help='print the environment for a shell: eval "$(deploy/local/cluster env)"'
    ).set_defaults(work=do_env)
    load = commands.add_parser("load", help="load container images (docker-archive) on every node")
    load.add_argument("files", nargs="+", type=Path, metavar="FILE.tar")
    load.set_defaults(work=do_load)
    commands.add_parser("install", help="install kubeweir from this checkout, and a Kafka for it").set_defaults(
        work=do_install
    )
    commands.add_parser(
        "demo", help="start a cluster, install kubeweir and show it on a small shop; KEEP=1 keeps the cluster"
    ).set_defaults(work=do_demo, nodes=2, cni=CNIS[0], proxy=PROXIES[0])
    commands.add_parser("status", help="list what runs; exit code 1 if there is no cluster").set_defaults(
        work=do_status
    )
    on = commands.add_parser("on", help="run a command on a node, in its namespaces")
    on.add_argument("node", metavar="NODE")
    on.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    on.set_defaults(work=do_on)
    return parser.parse_args()


def say(text: str) -> None:
    print(f"cluster: {text}", flush=True)


def do_up(arguments: argparse.Namespace) -> int:
    plan = Plan(arguments.nodes, arguments.cni, arguments.proxy)
    with only_one():
        if Plan.saved() is not None and not missing_processes():
            if Plan.saved() != plan:
                raise ClusterError(
                    f"a cluster with {Plan.saved()} is already running: remove it first (make cluster-down)", 4
                )
            say("already running")
            print_usage()
            return 0
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, interrupt)
        for thing in sweep():
            say(f"removed a leftover of an earlier cluster: {thing}")
        started = time.monotonic()
        try:
            start_all(plan)
        except (ClusterError, KeyboardInterrupt) as error:
            for name in ("kube-apiserver", *(f"{one.name}.kubelet" for one in plan.nodes)):
                if isinstance(error, ClusterError) and (end := last_lines(name, 3)) != "no log":
                    say(f"the last lines of {name}'s log:\n{end}")
            sweep()
            if isinstance(error, KeyboardInterrupt):
                raise ClusterError("stopped; nothing of the cluster remains", 130) from None
            raise
        say(f"started in {time.monotonic() - started:.0f} s: {plan}")
        print_usage()
    return 0


def start_all(plan: Plan) -> None:
    say("looking for etcd and Kubernetes")
    binaries = find_binaries()
    debian.prepare(say)
    archives = images.archives(binaries)
    logs().mkdir(parents=True)
    say("starting the control plane")
    control.make_bridge()
    control.start_server(binaries, plan)
    say(f"making {plan.count} nodes")
    with concurrent.futures.ThreadPoolExecutor(plan.count) as pool:
        list(pool.map(lambda one: node.make(one, plan, binaries), plan.nodes))
        load_all(pool, plan, archives)
    control.wait_for_server(say)
    control.start_controllers(binaries)
    node.weigh_containers()
    for one in plan.nodes:
        node.start_kubelet(one)
    plan.save()
    wait_for("the nodes", missing_nodes, say)


def do_down(_arguments: argparse.Namespace) -> int:
    with only_one():
        found = sweep()
    say(f"removed {len(found)} things: {', '.join(found)}" if found else "there is no cluster")
    return 0


def do_env(_arguments: argparse.Namespace) -> int:
    print(f'export KUBECONFIG="{kubeconfig()}"\nexport PATH="{find_binaries()}:$PATH"')
    return 0


def do_load(arguments: argparse.Namespace) -> int:
    plan = the_plan()
    for file in arguments.files:
        if not file.is_file():
            raise ClusterError(f"{file} does not exist", 2)
        with concurrent.futures.ThreadPoolExecutor(plan.count) as pool:
            load_all(pool, plan, [file])
        say(f"loaded {file} on {plan.count} nodes")
    return 0


def load_all(pool: concurrent.futures.Executor, plan: Plan, archives: Sequence[Path]) -> None:
    for done in [pool.submit(node.load, one, archive) for one in plan.nodes for archive in archives]:
        done.result()


def do_install(_arguments: argparse.Namespace) -> int:
    plan = the_plan()
    kafka = install.start_kafka(say)
    archive = install.build_image()
    with concurrent.futures.ThreadPoolExecutor(plan.count) as pool:
        load_all(pool, plan, [archive])
    overlay = install.write_overlay(kafka)
    say(f"kubectl apply -k {overlay}")
    kubectl("apply", "-k", str(overlay))
    for workload in ("ds/weir-probe", "deploy/weir-streams"):
        say(f"waiting for {workload}")
        kubectl("-n", "kubeweir", "rollout", "status", workload, "--timeout=300s")
    say(f"kubeweir is installed; records are in Kafka at {kafka}: kcat -C -b {kafka} -t kubeweir.flows")
    say(f"to uninstall it: kubectl delete -k {overlay}")
    return 0


def do_demo(arguments: argparse.Namespace) -> int:
    keep = os.environ.get("KEEP", "") not in ("", "0")
    if Plan.saved() is not None:
        raise ClusterError("a cluster is already running: remove it first (make cluster-down)", 4)
    try:
        do_up(arguments)
        do_install(arguments)
        kafka = install.start_kafka(say)
        demo.play(demo.Shop(kubectl, say), kubectl, kafka, say)
        say("every connection went as policy says")
        if keep:
            demo.print_suggestions(kafka, say)
    except KeyboardInterrupt:
        raise ClusterError("stopped", 130) from None
    except BaseException:
        keep = False
        raise
    finally:
        if not keep:
            do_down(arguments)
    return 0


def do_status(_arguments: argparse.Namespace) -> int:
    plan = Plan.saved()
    if plan is None:
        say("there is no cluster" + (", but processes of one still run" if running() else ""))
        return 1
    say(str(plan))
    missing = missing_processes()
    for name in sorted(set(running().values())):
        say(f"running: {name}")
    for name in missing:
        say(f"NOT RUNNING: {name}")
    if not missing:
        print(kubectl("get", "nodes", "-o", "wide"), end="")
    return 1 if missing else 0


def do_on(arguments: argparse.Namespace) -> int:
    chosen = next((one for one in the_plan().nodes if one.name == arguments.node), None)
    if chosen is None:
        raise ClusterError(
            f"there is no node {arguments.node}; the nodes are {', '.join(n.name for n in the_plan().nodes)}", 2
        )
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    return subprocess.run(node.command(chosen, *(words or ["sh"])), check=False).returncode


def the_plan() -> Plan:
    plan = Plan.saved()
    if plan is None:
        raise ClusterError("there is no cluster: start one with deploy/local/cluster up", 1)
    return plan


def missing_processes() -> list[str]:
    missing = {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}
    for one in the_plan().nodes:
        missing |= {one.name, *(f"{one.name}.{part}" for part in ("containerd", "kubelet", "kube-proxy"))}
    # While the kernel loads a program (execve), the environment of its process reads as empty.
    for _ in range(_ATTEMPTS):
        missing -= set(running().values())
        if not missing:
            break
        time.sleep(_PAUSE_S)
    return sorted(missing)


def missing_nodes() -> str | None:
    ended = missing_processes()
    if ended:
        raise ClusterError(f"{ended[0]} is not running: {last_lines(ended[0])}")
    try:
        listed = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
        kubectl("get", "serviceaccount", "default")
    except ClusterError as error:
        return str(error)
    conditions = {
        item["metadata"]["name"]: next((c for c in item["status"]["conditions"] if c["type"] == "Ready"), None)
        for item in listed
    }
    for one in the_plan().nodes:
        ready = conditions.get(one.name)
        if ready is None:
            return f"{one.name} has not registered"
        if ready["status"] != "True":
            return f"{one.name}: {ready['message']}"
    return None


def kubectl(*words: str, stdin: str | None = None) -> str:
    return run(find_binaries() / "kubectl", f"--kubeconfig={kubeconfig()}", *words, stdin=stdin).stdout


def find_binaries() -> Path:
    done = subprocess.run([ROOT / "deploy/local/binaries", "cluster"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ClusterError("etcd and Kubernetes cannot be built, see above", done.returncode)
    return Path(done.stdout.strip())


def print_usage() -> None:
    say('to use it: eval "$(deploy/local/cluster env)"; kubectl get nodes -o wide')
    say("load an image: deploy/local/cluster load FILE.tar; list what runs: deploy/local/cluster status")
    say("run a command on a node: deploy/local/cluster on NODE COMMAND; remove it all: deploy/local/cluster down")


def only_one() -> socket.socket:
    """Return a lock that the kernel frees when this process ends, however it ends: an abstract socket address."""
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind("\0kubeweir-cluster")
    except OSError:
        lock.close()
        raise ClusterError("another cluster is just starting or being removed: wait for it", 4) from None
    return lock


def interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
