"""A node of the cluster: network, mount and PID namespaces with containerd, kubelet and kube-proxy in them.

A node has its own /run, /var/lib, /var/log, /opt/cni, /etc/cni and BPF file system, as a machine has, so that manifests
need no change for nodes that share a machine. Its first process is `pause` in a new PID namespace: when that is killed,
the kernel ends every process of the node, and its mounts disappear with them.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Final

from kube import debian
from kube.control import PROXY_USER
from kube.images import PAUSE
from kube.plan import BRIDGE, HOME, HOST_4, HOST_6, PODS, ClusterError, Node, Plan, kubeconfig
from kube.processes import run, running, start, wait_for

_FIRST_PROCESS: Final = """
set -e
[ "$4" = disk ] || mount -t tmpfs -o mode=755 tmpfs "$1/lib"
mkdir -p "$1/lib/weir/kubernetes" "$1/lib/weir/debian" "$1/lib/kubelet"
mount --bind "$2" "$1/lib/weir/kubernetes"
mount --bind "$3" "$1/lib/weir/debian"
mount --bind "$1/log" /var/log
mount -t bpf -o mode=700 bpf /sys/fs/bpf
mount --rbind "$1/lib" /var/lib
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock /opt/cni /etc/cni
mount -t tmpfs -o mode=755 tmpfs /opt/cni
mount -t tmpfs -o mode=755 tmpfs /etc/cni
mkdir -p /opt/cni/bin /etc/cni/net.d
ln -s /var/lib/weir/debian/usr/lib/cni/* /opt/cni/bin/
touch /run/node-is-made
exec /var/lib/weir/kubernetes/pause
"""
_WEIR: Final = "/var/lib/weir"
_ENOUGH_MEMORY_KIB: Final = 8 << 20
_SOCKET: Final = "/run/containerd/containerd.sock"


def make(node: Node, plan: Plan, binaries: Path) -> None:
    """Make the node's network and start its processes. Raises ClusterError."""
    for folder in ("lib", "log/pods"):
        (node.home / folder).mkdir(parents=True)
    _make_network(node, plan)
    start(node.name, [
        "nsenter", f"--net=/run/netns/{node.name}", "unshare", "--mount", "--pid", "--fork", "--kill-child",
        "--mount-proc", "sh", "-c", _FIRST_PROCESS, "node", node.home, binaries, debian.UNPACKED,
        "memory" if _has_enough_memory() else "disk",
    ])  # fmt: skip
    wait_for(node.name, lambda: None if _is_made(node) else "its namespaces", lambda _: None, 20)
    _configure(node, plan)
    path = f"{_WEIR}/debian/usr/bin:{_WEIR}/debian/usr/sbin:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    _start_on(
        node, "containerd", f"{_WEIR}/debian/usr/bin/containerd", "--config", f"{_WEIR}/containerd.toml", path=path
    )
    wait_for(node.name, lambda: None if _root(node, _SOCKET).exists() else "containerd", lambda _: None, 60)


def start_kubelet(node: Node) -> None:
    """Start kubelet and kube-proxy, which need the API server and the images."""
    _start_on(
        node, "kubelet", f"{_WEIR}/kubernetes/kubelet", f"--config={_WEIR}/kubelet.json", "--root-dir=/var/lib/kubelet",
        f"--kubeconfig={_WEIR}/kubelet.kubeconfig", "--cert-dir=/var/lib/kubelet/pki", "--runtime-cgroups=/",
        f"--hostname-override={node.name}", f"--node-ip={','.join(node.addresses)}",
    )  # fmt: skip
    _start_on(
        node, "kube-proxy", f"{_WEIR}/kubernetes/kube-proxy", f"--config={_WEIR}/kube-proxy.json",
        f"--hostname-override={node.name}",
    )  # fmt: skip


def weigh_containers() -> None:
    """Give the cgroup of all containers four times the default CPU weight.

    Without it, all containers of all nodes together would get as much CPU as one process of a busy machine.
    """
    for root, file, weight in (("cpu", "cpu.shares", 4096), (".", "cpu.weight", 400)):
        folder = Path("/sys/fs/cgroup") / root
        if (folder / "cgroup.procs").exists():
            with contextlib.suppress(OSError):
                (folder / "k8s.io").mkdir(exist_ok=True)
                (folder / "k8s.io" / file).write_text(str(weight))


def command(node: Node, *words: str) -> list[str]:
    """Return a command line that runs the words in the node's namespaces."""
    return ["nsenter", "-t", str(_first_process(node)), "-m", "-n", "-p", "--", *words]


def load(node: Node, archive: Path) -> None:
    """Import a container image from an archive. Raises ClusterError."""
    ctr = f"{_WEIR}/debian/usr/bin/ctr"
    words = command(node, ctr, "--address", _SOCKET, "--namespace", "k8s.io", "images", "import", "-")
    with archive.open("rb") as file:
        done = subprocess.run(words, stdin=file, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{archive} cannot be loaded on {node.name}: {(done.stderr or done.stdout).strip()}")


def _make_network(node: Node, plan: Plan) -> None:
    four, six = node.addresses
    run("ip", "netns", "add", node.name)
    inside = ["nsenter", f"--net=/run/netns/{node.name}"]
    run(
        *inside, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1",
        "net.ipv6.conf.default.accept_dad=0", "net.ipv4.ping_group_range=0 2147483647",
    )  # fmt: skip
    run("ip", "link", "add", node.name, "type", "veth", "peer", "name", "eth0", "netns", node.name)
    run("ip", "link", "set", node.name, "master", BRIDGE, "up")
    lines = ["link set lo up", f"addr add {four}/24 dev eth0", f"addr add {six}/64 dev eth0 nodad", "link set eth0 up"]
    lines += [f"route add default via {HOST_4}", f"route add default via {HOST_6}"]
    for other in plan.nodes:
        if other != node:
            lines += [f"route add {pods} via {via}" for pods, via in zip(other.pods, other.addresses, strict=True)]
    run("ip", "-n", node.name, "-batch", "-", stdin="\n".join(lines))
    for pods, via in zip(node.pods, node.addresses, strict=True):
        run("ip", "route", "add", pods, "via", via)


def _configure(node: Node, plan: Plan) -> None:
    weir = _root(node, _WEIR)
    (weir / "containerd.toml").write_text(_CONTAINERD)
    _root(node, "/etc/cni/net.d/10-weir.conflist").write_text(json.dumps(_cni(node, plan.cni)))
    (weir / "manifests").mkdir()
    (weir / "kubelet.json").write_text(json.dumps(_KUBELET))
    (weir / "kube-proxy.json").write_text(json.dumps(_proxy(plan.proxy)))
    for name, user in (("kubelet", f"system:node:{node.name}"), ("kube-proxy", PROXY_USER)):
        file = weir / f"{name}.kubeconfig"
        file.touch(mode=0o600)
        file.write_text(kubeconfig(user).read_text())


def _has_enough_memory() -> bool:
    """Return whether images can be unpacked in memory, which is faster. kubeweir's image needs a GiB on each node."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) > _ENOUGH_MEMORY_KIB


def _start_on(node: Node, name: str, *words: str, path: str = "") -> None:
    env = {"PATH": path} if path else {}
    start(f"{node.name}.{name}", command(node, *words), env)


def container_ids() -> set[str]:
    """Return the ids of all containers of all nodes: runc makes their cgroups outside of the nodes' namespaces."""
    folder = "containerd/io.containerd.runtime.v2.task/k8s.io"
    roots = [Path(f"/proc/{pid}/root/var/lib") for pid in running()] + list(HOME.glob("*/lib"))
    found = set()
    for root in roots:
        with contextlib.suppress(OSError):
            found |= {path.name for path in (root / folder).iterdir()}
    return found


def _first_process(node: Node) -> int:
    """Return the node's first process: the child of the `unshare` that was started. Raises ClusterError."""
    for pid, name in running().items():
        if name == node.name:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if children:
                return int(children[0])
    raise ClusterError(f"{node.name} is not running")


def _root(node: Node, path: str) -> Path:
    """Return a path by which this process reaches a file of the node."""
    return Path(f"/proc/{_first_process(node)}/root{path}")


def _is_made(node: Node) -> bool:
    try:
        return _root(node, "/run/node-is-made").exists()
    except (ClusterError, OSError):
        return False


_CONTAINERD: Final = f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "{_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # In a container, OOM scores cannot be lowered, and runc fails with "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{_WEIR}/debian/usr/sbin/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"""


def _cni(node: Node, kind: str) -> dict[str, object]:
    ipam = {
        "type": "host-local", "dataDir": "/run/cni-addresses", "ranges": [[{"subnet": pods}] for pods in node.pods],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }  # fmt: skip
    shape: dict[str, object] = {"type": "ptp", "ipMasq": False, "ipam": ipam}
    if kind == "bridge":
        # A pod that reaches itself through its Service needs packets back on the bridge port that they came from.
        shape = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,
            "ipMasq": False,
            "ipam": ipam,
        }
    return {
        "cniVersion": "0.4.0", "name": "weir",
        "plugins": [shape, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }  # fmt: skip


_KUBELET: Final = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "cgroupDriver": "cgroupfs",
    # The cgroup hierarchy is the machine's and shared by all nodes, so no kubelet may manage it.
    "cgroupsPerQOS": False,
    # Without pod cgroups, kubelet 1.34 believes that a resize is pending and crashes in it (doPodResizeAction).
    "featureGates": {"InPlacePodVerticalScaling": False},
    "enforceNodeAllocatable": [],
    "failSwapOn": False,
    "failCgroupV1": False,
    "resolvConf": "",
    # The disk is the machine's: how full it is must not evict pods of a node.
    "evictionHard": {"imagefs.available": "0%", "nodefs.available": "0%", "memory.available": "50Mi"},
    "imageGCHighThresholdPercent": 100,
    "containerRuntimeEndpoint": f"unix://{_SOCKET}",
    "podLogsDir": "/var/log/pods",
    "staticPodPath": f"{_WEIR}/manifests",
    "serializeImagePulls": False,
}


def _proxy(mode: str) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{_WEIR}/kube-proxy.kubeconfig"},
        "mode": mode,
        "clusterCIDR": ",".join(PODS),
        # The size of the conntrack table is a setting of the whole machine: kube-proxy must not change it.
        "conntrack": {"maxPerCore": 0, "min": 0},
    }
