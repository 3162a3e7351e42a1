"""The settings of `weir-probe`, read from environment variables."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from enrich.runtime.secure_port import MetricsSettings
from enrich.runtime.settings import setting
from enrich.wire.topics import MAX_PARTITIONS


@dataclass(frozen=True, slots=True)
class Settings(MetricsSettings):
    """All settings of the probe; `main` reads them once and passes them to the parts."""

    topic_prefix: str = setting("WEIR_TOPIC_PREFIX", "kubeweir")
    """Prefix of the names of all topics."""
    partitions: int = setting("WEIR_PARTITIONS", 32, least=1, most=MAX_PARTITIONS)
    """Partitions of each topic that is created. A topic that exists with another number is reported and not used."""
    cluster: str = setting("WEIR_CLUSTER", "")
    """Id of the cluster in batches and records. By default the UID of the namespace kube-system, or "default" if that
    namespace is unknown. * is refused: it stands for every cluster in weir-streams."""
    node: str = setting("WEIR_NODE", socket.gethostname(), default_text="the host name")
    """Name of this node in the Kubernetes API."""
    daemonset: str = setting("WEIR_DAEMONSET", "")
    """DaemonSet that runs this probe, as namespace/name: when it is deleted, enforcement ends. If unset, only
    `weir-probe detach` ends it."""
    prune_guard: bool = setting("WEIR_PRUNE_GUARD", default=False)
    """Whether the deletion of that DaemonSet ends enforcement only if its annotation kubeweir.io/detach was `confirmed`
    before. It guards against a deletion by accident, such as a GitOps prune."""
    startup_taint: str = setting("WEIR_STARTUP_TAINT", "")
    """Key of a taint that is taken off this node once policy is installed, such as kubeweir.io/not-ready. It needs the
    right to get and patch nodes."""
    source: str = setting("WEIR_SOURCE", "kubernetes")
    """Source of the cluster's objects: kubernetes (by kubeconfig, or the service account in a cluster), or
    manifests:FOLDER (YAML files)."""
    attach: str = setting("WEIR_ATTACH", "auto")
    """How the programs are attached: tcx (kernel 6.6 or later), clsact, or auto (tcx if the kernel has it)."""
    encapsulation: Literal["closed", "open"] = setting("WEIR_ENCAPSULATION", "closed")
    """Whether pods may send encapsulation (VXLAN, Geneve, IPIP, GRE, ESP and others) to nodes. closed: it is dropped,
    because a node unwraps it and forwards what is inside. open: policy alone decides, which always allows the own
    node."""
    local_source: Literal["closed", "unnamed"] = setting("WEIR_LOCAL_SOURCE", "closed")
    """What happens to a packet with a local pod's address as source that another interface than that pod's brings in,
    such as the uplink. closed: it is dropped as spoofed. unnamed: it is judged as from an unknown address, and the log
    names no pod; for networks that send a pod's packets back to its own node."""
    pod_frames: Literal["own", "any"] = setting("WEIR_POD_FRAMES", "own")
    """Which Ethernet frames pods may send. own: from the link-layer address (MAC) only that their interface had when it
    was bound, and without VLAN tags; others are dropped as spoofed. any: a bridge between pods then believes a pod that
    sends with another one's address; for pods with virtual machines or VLANs behind them."""
    tunnel_ports: tuple[str, ...] = setting(
        "WEIR_TUNNEL_PORTS",
        (
            "1701",
            "2152",
            "4500",
            "4754",
            "4789",
            "4790",
            "4800",
            "6080",
            "6081",
            "6635",
            "6783",
            "6784",
            "8285",
            "8472",
        ),
    )
    """UDP ports at which nodes unwrap packets: L2TP, GTP, ESP, GRE, VXLAN, GUE, Geneve, MPLS, and those of Flannel,
    Weave and Submariner. Ports of the node's own VXLAN and Geneve devices count as well. WireGuard's are left out:
    it takes packets from its peers only."""
    unknown: Literal["auto", "closed", "open"] = setting("WEIR_UNKNOWN", "auto")
    """What an interface may do until its pod is known: closed (it can talk with its own node only), open (everything),
    or auto, which is closed with the CNI plugin (unless WEIR_CNI_ON_FAILURE=open) and open without."""
    pod_interfaces: tuple[str, ...] = setting(
        "WEIR_POD_INTERFACES", ("cali*", "lxc*", "eni*", "azv*", "gke*", "!eth[0-9]*", "!ve-*", "!vb-*")
    )
    """Patterns of interface names, for WEIR_UNKNOWN=closed: veths that are pods' with any address, and with !
    in front those that never are. Any other veth counts as a pod's until its addresses say that it is not."""
    pod_cidrs: tuple[str, ...] = setting("WEIR_POD_CIDRS", ())
    """Ranges of this node's pods' addresses, for WEIR_UNKNOWN=closed. By default those of the Node object."""
    preset: Literal["none", "gke"] = setting("WEIR_PRESET", "none")
    """gke: other defaults, by which logging does what GKE's network policy logging does, as far as settings can say it.
    A setting that is given wins."""
    logging: Literal["all", "denied", "none"] = setting("WEIR_LOGGING", "all", presets={"gke": "none"})
    """Which verdicts are logged if the cluster has no object NetworkLogging: all, denied (and audited) ones only, or
    none. What is not logged is cut in the kernel, and counted."""
    log_default_allow: bool = setting("WEIR_LOG_DEFAULT_ALLOW", default=True, presets={"gke": "false"})
    """Whether connections are logged that pass without a policy, because none selects the pod, or the peer is its node
    or the pod itself. They are logged only where all allowed connections are. GKE never logs them."""
    limit_allowed: int = setting("WEIR_LIMIT_ALLOWED", 0, most=1_000_000, presets={"gke": "500"})
    """Allowed connections that this node logs in a second at most; 0: no limit. What is over the limit is not logged,
    and counted."""
    limit_denied: int = setting("WEIR_LIMIT_DENIED", 0, most=1_000_000, presets={"gke": "500"})
    """The same, of verdicts about denied packets and audited connections. A denied flow that is logged keeps an exact
    count; if too many counts are due, they are logged later than WEIR_DENY_WINDOW says."""
    alerts_feed: Literal["logged", "all"] = setting("WEIR_ALERTS_FEED", "logged")
    """Which denials reach the topic flows.denied, from which alerts are made: those that are logged, or all, also while
    their logging is switched off. A record that is not logged says so, and is on no other topic."""
    ends: bool = setting("WEIR_ENDS", default=False)
    """Whether the end of a logged, allowed connection is reported on the topic flows.ended: what it carried, and how it
    ended. It takes 200 bytes more for each connection that the node remembers. Switching it makes other maps, as a
    change of their sizes does: connections go on, and those that are open are not reported, or not to their end."""
    netns: Path | None = setting("WEIR_NETNS", None)
    """Path of the node's network namespace, if it is not that of the process (as in the demo)."""
    pin_dir: Path = setting("WEIR_PIN_DIR", Path("/sys/fs/bpf/kubeweir"))
    """Folder in a BPF file system where maps, programs and links are pinned."""
    run_dir: Path = setting("WEIR_RUN_DIR", Path("/run/kubeweir"))
    """Folder of the lock, the ledger and the address intervals. It must live as long as the pins, until a reboot."""
    state_dir: Path = setting("WEIR_STATE_DIR", Path("/var/lib/kubeweir"))
    """Folder of the spool, which keeps the batches that Kafka has not acknowledged, and of the last state of policies
    of CustomResourceDefinitions. It should survive a reboot."""
    program_dir: Path | None = setting("WEIR_PROGRAM_DIR", None, default_text="programs in WEIR_STATE_DIR")
    """Folder of the compiled kernel programs, so that a start need not compile. A file in it is used only if it belongs
    to the probe's user, no other user may write it, and it was compiled from the same source on the same system."""
    spool_bytes: int = setting("WEIR_SPOOL_BYTES", 1 << 30, least=4 << 20)
    """Bytes that the spool may take on disk. A full spool removes its oldest verdicts, allowed ones first, and counts
    them."""
    deny_window: float = setting("WEIR_DENY_WINDOW", 5.0, least=0.1, presets={"gke": "5"})
    """Seconds between the verdicts of a flow that is denied repeatedly: the first packet is logged at once, the others
    as one verdict with a count."""
    deny_source_port: bool = setting("WEIR_DENY_SOURCE_PORT", default=True, presets={"gke": "false"})
    """Whether denied packets from different source ports are different flows. false: a client that tries again and
    again is one flow, and its verdicts have the source port with which it began."""
    pod_denied_flows: int = setting("WEIR_POD_DENIED_FLOWS", 1000, formerly=("WEIR_FIRSTS",))
    """Denied flows of one pod that are logged one by one in a window; if the node has too many, fewer. Those beyond are
    counted together, without addresses. A flow between two pods of the node counts for the pod that sends."""
    ring_bytes: int | None = setting("WEIR_RING_BYTES", None, least=4096, default_text="auto")
    """Bytes of the kernel's ring buffer, a power of two. A verdict takes 96 bytes. auto: 16 MiB, less where memory is
    small."""
    connections: int | None = setting("WEIR_CONNECTIONS", None, least=1, formerly=("WEIR_FLOWS",), default_text="auto")
    """Connections that the node remembers at a time. At least four times WEIR_ENDPOINTS. auto: 1,024 for each pod that
    the node can have, at most 524,288, less where memory is small."""
    pod_connections: int = setting("WEIR_POD_CONNECTIONS", 32_768, least=1, formerly=("WEIR_POD_FLOWS",))
    """Connections that one pod may open of these, and as many that may be opened to it from outside the node. Beyond
    that its own are evicted. One between two pods of the node counts twice for the pod that opens it. If the table is
    full, each pod keeps a reserved part, and the pod that uses most of the rest loses first."""
    addresses: int = setting("WEIR_ADDRESSES", 262_144, least=1)
    """Addresses and CIDR blocks that the kernel's map can hold: those of pods, nodes, Services and policies."""
    policy_entries: int = setting("WEIR_POLICY_ENTRIES", 262_144, least=1, formerly=("WEIR_ROWS",))
    """Policy entries that the kernel's map can hold: one for each policy set, direction and class of peers."""
    port_entries: int = setting("WEIR_PORT_ENTRIES", 262_144, least=1, formerly=("WEIR_PORTS",))
    """Port entries that the kernel's map can hold: one for each range of ports in a policy entry, aligned to powers
    of two."""
    denied_flows: int | None = setting(
        "WEIR_DENIED_FLOWS", None, least=1, formerly=("WEIR_WINDOWS",), default_text="auto"
    )
    """Denied flows on the node that are counted one by one in a window. At least four times WEIR_ENDPOINTS. auto: 64
    for each pod that the node can have, at least 16,384."""
    endpoints: int | None = setting("WEIR_ENDPOINTS", None, least=1, default_text="auto")
    """Pods on this node that can be under policy; one with two interfaces counts twice. auto: as many as the Node
    object says that the node can have, rounded up to a power of two, at least 128 and at most 4,096; 256 if the API
    server does not answer at the first start."""
    local_addresses: int = setting("WEIR_LOCAL_ADDRESSES", 65_536, least=1)
    """Addresses that the node and its pods can have together. kube-proxy in IPVS mode gives the node every cluster
    IP. Where not all fit, those of Services are left out first, and a quarter is for pods."""
    fragments: int | None = setting("WEIR_FRAGMENTS", None, least=1, default_text="auto")
    """Fragmented packets whose verdicts the node remembers at a time, for their later fragments. Each pod has an equal
    share. At least four times WEIR_ENDPOINTS. auto: 16 for each pod that the node can have, at least 16,384."""
    cni: Literal["on", "off"] = setting("WEIR_CNI", "off")
    """Whether the CNI plugin weir-cni is used: it lets a pod's processes start only when the pod's policy is in force.
    The probe then keeps it in the node's CNI configuration."""
    cni_bin_dir: Path = setting("WEIR_CNI_BIN_DIR", Path("/opt/cni/bin"))
    """The container runtime's folder of CNI programs."""
    cni_conf_dir: Path = setting("WEIR_CNI_CONF_DIR", Path("/etc/cni/net.d"))
    """The container runtime's folder of CNI configurations. The plugin is added to the first one by name."""
    cni_wait: int = setting("WEIR_CNI_WAIT", 10, least=1)
    """Seconds that a starting pod waits for its policy to be in force, or for the probe to run."""
    cni_on_failure: Literal["closed", "open"] = setting("WEIR_CNI_ON_FAILURE", "closed")
    """What follows if policy is not in force by then: closed (the pod's sandbox fails with "try again later", and the
    kubelet makes it again), or open (the pod starts, and is under policy later)."""
    batch_verdicts: int = setting("WEIR_BATCH_VERDICTS", 2000, least=1, formerly=("WEIR_BATCH_ROWS",))
    """Verdicts in a batch at most."""
    batch_denied_wait: float = setting("WEIR_BATCH_DENIED_WAIT", 0.1, formerly=("WEIR_BATCH_DENIED",))
    """Seconds that a denied verdict waits at most for its batch to fill."""
    batch_allowed_wait: float = setting("WEIR_BATCH_ALLOWED_WAIT", 0.5, formerly=("WEIR_BATCH_ALLOWED",))
    """Seconds that an allowed verdict waits at most for its batch to fill; four times as long on a node with fewer
    than 100 verdicts a second."""
    heartbeat: float = setting("WEIR_HEARTBEAT", 10.0, least=0.1)
    """Seconds without verdicts after which an empty batch is sent, so that readers know that the probe is alive."""
    metrics: str = setting("WEIR_METRICS", "127.0.0.1:9701")
    """host:port that serves /metrics, /healthz and /readyz. Port 0 takes any free one."""
    log_level: str = setting("WEIR_LOG_LEVEL", "info")
    """Least severe level that is logged: debug, info, warning or error."""
    log_format: str = setting("WEIR_LOG_FORMAT", "auto")
    """Format of log lines: json, console, or auto (console on a terminal, json otherwise)."""

    def tunnel_port_numbers(self) -> frozenset[int]:
        """Return ``tunnel_ports`` as numbers. Raises ValueError for a value that is not a port."""
        numbers = frozenset(int(text) for text in self.tunnel_ports)
        if not all(0 < number < 1 << 16 for number in numbers):
            raise ValueError("a port is a number from 1 to 65535")
        return numbers

    def feeds_all(self) -> bool:
        """Return whether alerts count denials that are not logged, too."""
        return self.alerts_feed == "all"

    def program_folder(self) -> Path:
        """Return the folder of the compiled kernel programs."""
        return self.program_dir or self.state_dir / "programs"

    def closes_unknown(self) -> bool:
        """Return whether an interface is closed until its pod is known (``WEIR_UNKNOWN``)."""
        if self.unknown == "auto":
            return self.cni == "on" and self.cni_on_failure == "closed"
        return self.unknown == "closed"

    def sizes(self) -> dict[str, int | None]:
        """Return the sizes of the maps, by the names of the compile-time constants of ``bpf/policy.c``; None: auto."""
        return {
            "RING_BYTES": self.ring_bytes,
            "CONNECTIONS": self.connections,
            "ADDRESSES": self.addresses,
            "POLICY_ENTRIES": self.policy_entries,
            "PORT_ENTRIES": self.port_entries,
            "DENIED_FLOWS": self.denied_flows,
            "ENDPOINTS": self.endpoints,
            "FRAGMENTS": self.fragments,
            "LOCAL_ADDRESSES": self.local_addresses,
        }
