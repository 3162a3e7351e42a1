"""The settings of `weir-streams`: environment variables, each with its default and description."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from enrich.history.left_out import LEFT_OUT
from enrich.runtime.secure_port import MetricsSettings
from enrich.runtime.settings import setting
from enrich.wire.topics import JOURNAL_DAYS, MAX_PARTITIONS, PAIRS_DAYS, Topics, topics
from streams.metrics.label_values import VerdictsBy

EVERY_CLUSTER: Final = "*"
"""The value of WEIR_CLUSTER with which a sink takes every cluster's records."""
_GKE_FILE: Final = "/var/log/network/policy_action.log"


@dataclass(frozen=True, slots=True)
class Settings(MetricsSettings):
    """All settings of all roles."""

    prefix: str = setting("WEIR_TOPIC_PREFIX", "kubeweir")
    """Prefix of the names of all topics and consumer groups."""
    cluster: str = setting("WEIR_CLUSTER", "")
    """Id of this worker's cluster. Batches, address intervals and records of other clusters on the same topics are
    skipped. By default the UID of the namespace kube-system; in manifests without that namespace every cluster's are
    taken. *: every cluster's, for the sinks only."""
    source: str = setting("WEIR_SOURCE", "kubernetes")
    """Where pods, policies and other objects are read from: kubernetes (the API server), or manifests:FOLDER."""
    labels: tuple[str, ...] = setting("WEIR_LABELS", ("app", "k8s-app", "app.kubernetes.io/*"))
    """Pod labels that records contain, comma-separated. A * at the end stands for a prefix; * alone: all, -: none."""
    sinks: tuple[str, ...] = setting("WEIR_SINKS", ())
    """Sinks to run beside the enricher, comma-separated: stdout, file."""
    routes: str = setting("WEIR_ROUTES", "")
    """YAML file of routes, which send records to further outputs (check it with `weir routes check FILE`). A change is
    applied at once. Empty: no routes."""
    alerts: str = setting("WEIR_ALERTS", "")
    """YAML file of alert rules and the outputs they notify (check it with `weir alerts check FILE`). A change is
    applied at once. Empty: the built-in rules. -: the role alerts does not run, unless the command line names it."""
    alertmanager: tuple[str, ...] = setting("WEIR_ALERTMANAGER", ())
    """URLs of Alertmanagers to notify in addition to the outputs in the file, comma-separated: http://alertmanager:9093."""
    alert_groups: int = setting("WEIR_ALERT_GROUPS", 100_000, least=100)
    """Limit of groups that an alert rule keeps in one worker. Beyond it, the groups idle for longest are evicted."""
    alert_firing: int = setting("WEIR_ALERT_FIRING", 50, least=1)
    """Limit of alerts of a rule that fire at once in one worker. Groups beyond it share one alert, the digest."""
    alert_learn: float = setting("WEIR_ALERT_LEARN", 3600.0)
    """Seconds for which a new rule of the kind `first` learns quietly, from the first start with it: groups that appear
    become known and make no alert."""
    journal_days: int = setting("WEIR_JOURNAL_DAYS", JOURNAL_DAYS, most=36_500)
    """Days for which the journal says what policies and names were, when its topic is created. 0: no journal is kept.
    Then the role journal does not run, and the topic is not made."""
    profile_labels_left_out: tuple[str, ...] = setting("WEIR_PROFILE_LABELS_LEFT_OUT", LEFT_OUT)
    """Pod labels that profiles leave out, comma-separated, because each pod or rollout has another value: a profile
    stands for all pods that differ in nothing else. A * at the end stands for a prefix. Equal for all workers; commands
    judge by what the writer of a profile left out."""
    preset: Literal["none", "gke"] = setting("WEIR_PRESET", "none")
    """gke: the file of GKE's network policy logging. A setting that is given wins. The sink `file` still has to be
    run."""
    file_path: str = setting("WEIR_FILE_PATH", _GKE_FILE, presets={"gke": _GKE_FILE})
    """File that the sink `file` writes, one JSON object per line. The default is the path of GKE's policy log."""
    file_max_bytes: int = setting("WEIR_FILE_MAX_BYTES", 10_000_000, presets={"gke": "10000000"})
    """Size in bytes at which the file is rotated to .1, .2 and so on."""
    file_keep: int = setting("WEIR_FILE_KEEP", 5, presets={"gke": "5"})
    """Number of rotated files to keep."""
    partitions: int = setting("WEIR_PARTITIONS", 32, least=1, most=MAX_PARTITIONS)
    """Partitions of the topics that this service creates. Existing topics are not changed."""
    replication: int = setting("WEIR_REPLICATION", 0)
    """Replication factor of the topics that this service creates. 0: the default of the brokers."""
    in_flight_verdicts: int = setting("WEIR_IN_FLIGHT_VERDICTS", 200_000, formerly=("WEIR_IN_FLIGHT_ROWS",))
    """Limit of verdicts in flight: read, but not all of their records acknowledged by Kafka. At the limit, reading
    pauses."""
    in_flight_bytes: int = setting("WEIR_IN_FLIGHT_BYTES", 67_108_864)
    """Limit of bytes of batches in flight, in the same way."""
    pod_retention: float = setting("WEIR_POD_RETENTION", 3600.0, formerly=("WEIR_TAIL",))
    """Seconds that deleted pods stay known, so that late verdicts can be named. Longer than this worker ever lags."""
    attribution_wait: float = setting("WEIR_ATTRIBUTION_WAIT", 2.0, formerly=("WEIR_HOLD",))
    """Seconds that a verdict waits, at most, for the API server to publish the pods that it is about. With 0 it
    does not wait: if the index is not synced up to its time yet, its peer is `ambiguous` instead of named."""
    pending_bytes: int = setting("WEIR_PENDING_BYTES", 16_777_216, formerly=("WEIR_HOLD_BYTES",))
    """Limit of bytes of such pending verdicts. Beyond it, the oldest are sent with what is known of their pods."""
    stop_timeout: float = setting("WEIR_STOP_TIMEOUT", 10.0, formerly=("WEIR_STOP_SECONDS",))
    """Seconds that a stop waits for acknowledgements from Kafka. Batches without one are read again at the next
    start. A role that has not ended 3 s after that is ended, with exit code 1."""
    metrics: str = setting("WEIR_METRICS", "127.0.0.1:9702")
    """host:port of /metrics, /healthz and /readyz of the role enrich. The roles stdout, file, routes, alerts and
    journal use the next five ports, in this order, /readyz of all that run together is on the one after them, and the
    roles web and hubble use the next two. Port 0: any free port, and no common page."""
    web: str = setting("WEIR_WEB", "127.0.0.1:9700")
    """host:port of the page that the role web serves. With WEIR_WEB_AUTH=none it must be a loopback address."""
    web_auth: Literal["none", "kubernetes"] = setting("WEIR_WEB_AUTH", "none")
    """Who sees what on the page: none (everybody who reaches it sees everything; loopback addresses only), or
    kubernetes (bearers of a token see the records of the namespaces in which RBAC gives them the verb get on
    flows.kubeweir.io)."""
    web_hosts: tuple[str, ...] = setting("WEIR_WEB_HOSTS", ())
    """Names under which browsers may reach the page, comma-separated, beside localhost, 127.0.0.1 and ::1. Requests
    for other names are refused, so that a foreign page cannot read this one by DNS rebinding."""
    web_certificate: Path | None = setting("WEIR_WEB_CERTIFICATE", None)
    """PEM file of the certificate of the page, which then speaks TLS only. Needed beyond loopback addresses. A renewed
    one is taken into use."""
    web_key: Path | None = setting("WEIR_WEB_KEY", None)
    """PEM file of that certificate's key."""
    web_proxy_ca: Path | None = setting("WEIR_WEB_PROXY_CA", None)
    """PEM file of the authorities of a front proxy that signs people in and names them in X-Remote-User, X-Remote-Group
    and X-Remote-Extra-. These headers are believed with a client certificate of theirs only, which has a name of
    WEIR_WEB_PROXY_NAMES. The page then speaks TLS 1.3 only. A renewed file is taken into use."""
    web_proxy_names: tuple[str, ...] = setting("WEIR_WEB_PROXY_NAMES", ())
    """Common names that the certificate of the front proxy may have, comma-separated; * for any of that authority."""
    pairs: bool = setting("WEIR_PAIRS", default=False)
    """1: the role enrich counts the pairs of each hour, for questions about the past (docs/history.md). 0: it does
    not."""
    pairs_days: int = setting("WEIR_PAIRS_DAYS", PAIRS_DAYS, least=1)
    """Days for which counts of pairs are kept. An existing topic is not changed."""
    pairs_flush: float = setting("WEIR_PAIRS_FLUSH", 20.0, least=1)
    """Seconds between two writes of the counts of pairs that have changed."""
    pairs_limit: int = setting("WEIR_PAIRS_LIMIT", 200_000, least=1000)
    """Limit of combinations that a worker tells apart in an hour. A workload has a tenth of it. Beyond, verdicts count
    with any peer and port."""
    hubble: str = setting("WEIR_HUBBLE", "")
    """host:port at which the role hubble serves Hubble's API (docs/hubble.md), such as 127.0.0.1:4245. Empty: the role
    does not run, unless the command line names it. Without certificates it must be a loopback address."""
    hubble_certificate: Path | None = setting("WEIR_HUBBLE_CERTIFICATE", None)
    """PEM file of the certificate of Hubble's API. A renewed one is taken into use."""
    hubble_key: Path | None = setting("WEIR_HUBBLE_KEY", None)
    """PEM file of that certificate's key."""
    hubble_client_ca: Path | None = setting("WEIR_HUBBLE_CLIENT_CA", None)
    """PEM file of the authorities of clients. Every client with a certificate of theirs reads all flows."""
    hubble_streams: int = setting("WEIR_HUBBLE_STREAMS", 8, least=1, most=256)
    """Limit of clients that read flows by Hubble's API at once. Each has a Kafka consumer and a thread of its own."""
    verdicts_by: VerdictsBy = setting("WEIR_VERDICTS_BY", "none")
    """Labels that kubeweir_streams_verdicts_total has for the pod whose policy decided: none, namespace, or workload
    (with its namespace)."""
    verdicts_limit: int = setting("WEIR_VERDICTS_LIMIT", 1000, formerly=("WEIR_VERDICTS_MOST",))
    """Limit of namespaces or workloads with a label value of their own in that metric. The others share _other."""
    log_level: str = setting("WEIR_LOG_LEVEL", "info")
    """debug, info, warning or error."""
    log_format: str = setting("WEIR_LOG_FORMAT", "auto")
    """json, console, or auto: console if stderr is a terminal, json otherwise."""

    def certificates(self) -> dict[str, Path]:
        """Return the PEM files of certificates, each by what it is for."""
        own = {"web": self.web_certificate, "hubble": self.hubble_certificate}
        return MetricsSettings.certificates(self) | {name: path for name, path in own.items() if path is not None}

    def group(self, name: str) -> str:
        """Return the name of a consumer group, which other clusters with the same topics do not share.

        All groups and transactional ids of a cluster begin alike, so that one access rule can be for all of them."""
        return ".".join((self.prefix, *([self.cluster] if self.cluster else []), name))

    @property
    def topics(self) -> Topics:
        """The topics that the service reads and writes, with the configuration that it creates them with."""
        return topics(self.prefix, self.partitions, self.journal_days or JOURNAL_DAYS, self.pairs_days)
