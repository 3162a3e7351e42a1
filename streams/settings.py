"""What `weir-streams` reads from the environment."""

from __future__ import annotations

from dataclasses import dataclass

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import setting
from enrich.wire.topics import Topics, topics
from streams.metrics.verdicts import By


@dataclass(frozen=True, slots=True)
class Settings(KafkaSettings):
    """Every setting of every role."""

    prefix: str = setting("WEIR_TOPIC_PREFIX", "kubeweir")
    """What the names of topics and consumer groups begin with."""
    cluster: str = setting("WEIR_CLUSTER", "")
    """Id of the cluster whose batches are taken; another's go to <prefix>.dead. Empty: every cluster's are taken."""
    source: str = setting("WEIR_SOURCE", "kubernetes")
    """Where pods and their names come from: kubernetes, or manifests:FOLDER."""
    labels: tuple[str, ...] = setting("WEIR_LABELS", ("app", "k8s-app", "app.kubernetes.io/*"))
    """Which pod labels are in a record, comma between; a * at the end for a prefix, * alone for all, - for none."""
    sinks: tuple[str, ...] = setting("WEIR_SINKS", ())
    """Sinks that run beside the enricher, comma between: stdout, file."""
    routes: str = setting("WEIR_ROUTES", "")
    """A file of routes: which records go where besides (`weir routes check FILE`). Changes are taken over at once."""
    alerts: str = setting("WEIR_ALERTS", "")
    """A file of alert rules and of who is told (`weir alerts check FILE`). Changes are taken over at once. Empty: the
    built-in rules. -: no alerts, unless the role is named."""
    alertmanager: tuple[str, ...] = setting("WEIR_ALERTMANAGER", ())
    """Addresses of Alertmanagers besides those of the file, such as http://alertmanager:9093, comma between."""
    alert_groups: int = setting("WEIR_ALERT_GROUPS", 100_000, least=100)
    """Most groups that an alert rule has in one worker; past it those go that were quiet for longest."""
    file_path: str = setting("WEIR_FILE_PATH", "/var/log/network/policy_action.log")
    """The file that the sink `file` writes, one JSON object a line. The default is where GKE writes its own."""
    file_max_bytes: int = setting("WEIR_FILE_MAX_BYTES", 10_000_000)
    """Bytes after which the file is rotated to .1, .2 and so on."""
    file_keep: int = setting("WEIR_FILE_KEEP", 5)
    """How many rotated files are kept."""
    partitions: int = setting("WEIR_PARTITIONS", 32)
    """Partitions of the topics that this service makes; those that exist are left as they are."""
    replication: int = setting("WEIR_REPLICATION", 0)
    """Replicas of the topics that this service makes; 0: what the brokers have as their default."""
    in_flight_verdicts: int = setting("WEIR_IN_FLIGHT_VERDICTS", 200_000, formerly=("WEIR_IN_FLIGHT_ROWS",))
    """Most verdicts that are read and whose records Kafka has not acknowledged yet."""
    in_flight_bytes: int = setting("WEIR_IN_FLIGHT_BYTES", 67_108_864)
    """Most bytes of batches that are read and whose records Kafka has not acknowledged yet."""
    tail: float = setting("WEIR_TAIL", 3600.0)
    """Seconds that pods which are gone are remembered: longer than this worker is ever behind."""
    attribution_wait: float = setting("WEIR_ATTRIBUTION_WAIT", 2.0, formerly=("WEIR_HOLD",))
    """Seconds, at most, that a verdict waits for the API server to tell of a pod that it is about."""
    pending_bytes: int = setting("WEIR_PENDING_BYTES", 16_777_216, formerly=("WEIR_HOLD_BYTES",))
    """Most bytes of verdicts that wait so; past it the oldest go out, named as well as is known."""
    stop_timeout: float = setting("WEIR_STOP_TIMEOUT", 10.0, formerly=("WEIR_STOP_SECONDS",))
    """How long a stop waits for Kafka to acknowledge; what it has not by then is read again at the next start."""
    metrics: str = setting("WEIR_METRICS", "127.0.0.1:9702")
    """host:port of /metrics, /healthz and /readyz of the enricher; stdout has the next port, file, routes
    and alerts those after it.
    Port 0: any free one."""
    verdicts_by: By = setting("WEIR_VERDICTS_BY", "none")
    """What the metric of verdicts has labels for besides what was decided: none, namespace or workload (with its
    namespace) of the pod whose policy decided."""
    verdicts_limit: int = setting("WEIR_VERDICTS_LIMIT", 1000, formerly=("WEIR_VERDICTS_MOST",))
    """How many namespaces or workloads have a label of their own there; the rest share the label _other."""
    log_level: str = setting("WEIR_LOG_LEVEL", "info")
    """debug, info, warning or error."""
    log_format: str = setting("WEIR_LOG_FORMAT", "auto")
    """json, console, or auto: console where stderr is a terminal."""

    @property
    def topics(self) -> Topics:
        """The topics, as they are made."""
        return topics(self.prefix, self.partitions)
