"""The probe's settings, from the environment."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import setting


@dataclass(frozen=True, slots=True)
class Settings(KafkaSettings):
    """Read once, passed in."""

    topic_prefix: str = setting("WEIR_TOPIC_PREFIX", "kubeweir")
    """What the topics' names begin with."""
    partitions: int = setting("WEIR_PARTITIONS", 32, least=1)
    """Partitions of a topic that is made; fixed from then on."""
    cluster: str = setting("WEIR_CLUSTER", "")
    """The cluster's id; by default the UID of the namespace kube-system, else "default"."""
    node: str = setting("WEIR_NODE", socket.gethostname(), default_text="the host name")
    """This node's name in the Kubernetes API."""
    daemonset: str = setting("WEIR_DAEMONSET", "")
    """namespace/name of the DaemonSet that runs this probe: when that is deleted, enforcement ends. By default nothing
    ends it but `weir-probe detach`."""
    source: str = setting("WEIR_SOURCE", "kubernetes")
    """Where the cluster's objects come from: kubernetes (kubeconfig or in-cluster account), or manifests:FOLDER."""
    attach: str = setting("WEIR_ATTACH", "auto")
    """How programs are attached: tcx (kernel 6.6), clsact, or auto."""
    netns: Path | None = setting("WEIR_NETNS", None)
    """The node's network namespace, where it is not the process' own (the demo, the tests)."""
    pin_dir: Path = setting("WEIR_PIN_DIR", Path("/sys/fs/bpf/kubeweir"))
    """Where maps, programs and links are pinned, in bpffs."""
    run_dir: Path = setting("WEIR_RUN_DIR", Path("/run/kubeweir"))
    """The lock, and the ledger of numbers, which must live as long as the pins: until a reboot."""
    state_dir: Path = setting("WEIR_STATE_DIR", Path("/var/lib/kubeweir"))
    """The spool of batches that Kafka has not acknowledged."""
    spool_bytes: int = setting("WEIR_SPOOL_BYTES", 1 << 30, least=4 << 20)
    """How much the spool may hold; past it allows are thinned out first, and counted."""
    deny_window: float = setting("WEIR_DENY_WINDOW", 5.0, least=0.1)
    """Seconds: a denied flow is logged at once, then once per window with a count."""
    pod_denied_flows: int = setting("WEIR_POD_DENIED_FLOWS", 1000, formerly=("WEIR_FIRSTS",))
    """New denied flows that a pod may log one by one in a window; more are counted without addresses."""
    ring_bytes: int = setting("WEIR_RING_BYTES", 16 << 20, least=4096)
    """Size of the kernel's ring buffer, a power of two; a row takes 96 bytes."""
    connections: int = setting("WEIR_CONNECTIONS", 262_144, least=1, formerly=("WEIR_FLOWS",))
    """Connections that are remembered at once."""
    pod_connections: int = setting("WEIR_POD_CONNECTIONS", 16_384, least=1, formerly=("WEIR_POD_FLOWS",))
    """Of these, how many one pod may have: past it its own oldest are forgotten, and nobody else's."""
    addresses: int = setting("WEIR_ADDRESSES", 262_144, least=1)
    """Addresses and blocks that the kernel can hold."""
    policy_entries: int = setting("WEIR_POLICY_ENTRIES", 262_144, least=1, formerly=("WEIR_ROWS",))
    """Rows of policy (policy set, direction, identity)."""
    port_entries: int = setting("WEIR_PORT_ENTRIES", 262_144, least=1, formerly=("WEIR_PORTS",))
    """Port entries of policy."""
    denied_flows: int = setting("WEIR_DENIED_FLOWS", 65_536, least=1, formerly=("WEIR_WINDOWS",))
    """Denied flows that are counted one by one in a window."""
    endpoints: int = setting("WEIR_ENDPOINTS", 1024, least=1)
    """Local pods."""
    batch_verdicts: int = setting("WEIR_BATCH_VERDICTS", 2000, least=1, formerly=("WEIR_BATCH_ROWS",))
    """Rows at which a batch ends."""
    batch_denied: float = setting("WEIR_BATCH_DENIED", 0.1)
    """Seconds that a denied row may wait for its batch."""
    batch_allowed: float = setting("WEIR_BATCH_ALLOWED", 0.5)
    """Seconds that allowed rows may wait for theirs; four times as long below 100 rows a second."""
    heartbeat: float = setting("WEIR_HEARTBEAT", 10.0, least=0.1)
    """Seconds without rows after which an empty batch says that the probe is alive."""
    metrics: str = setting("WEIR_METRICS", "127.0.0.1:9701")
    """host:port of /metrics, /healthz and /readyz. Port 0: any free one."""
    log_level: str = setting("WEIR_LOG_LEVEL", "info")
    """debug, info, warning or error."""
    log_format: str = setting("WEIR_LOG_FORMAT", "auto")
    """json, console, or auto: console on a terminal."""

    def sizes(self) -> dict[str, int]:
        """The compile-time settings of ``bpf/policy.c``."""
        return {
            "RING_BYTES": self.ring_bytes,
            "CONNECTIONS": self.connections,
            "ADDRESSES": self.addresses,
            "POLICY_ENTRIES": self.policy_entries,
            "PORT_ENTRIES": self.port_entries,
            "DENIED_FLOWS": self.denied_flows,
            "ENDPOINTS": self.endpoints,
        }
