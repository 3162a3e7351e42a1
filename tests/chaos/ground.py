"""All that faults are made in: three brokers with users and ACLs, an API server, probes, all roles, and the account."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from confluent_kafka import KafkaException
from confluent_kafka.admin import AclBinding, NewTopic
from ports import free_ports

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import load
from enrich.wire.topics import topics
from tests.chaos.account import Account, Tail
from tests.chaos.api import LocalApi
from tests.chaos.fleet import CLUSTER, NODES, THRESHOLD, Fleet
from tests.chaos.hostile import Hostile
from tests.chaos.workers import Workers
from tests.kafka.brokers import NUMBERS, BrokerCluster
from tests.kafka.guarded import GuardedBroker, administrator
from tests.kafka.hook import Hook
from tests.kafka.identity import IdentityProvider
from tests.kafka.mounted_users import MountedUsers
from tests.kafka.test_alerts import ALL

PREFIX: Final = "chaos"
PARTITIONS: Final = 4
_PATIENCE_S: Final = 180.0
_START_S: Final = 400.0
"""Three Java machines that start at once beside a busy machine have taken longer than one that starts again."""
T = TypeVar("T")


class Ground:
    """Makes everything when it is made, and ends everything in :meth:`close`."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._closing = contextlib.ExitStack()
        try:
            self._build(folder, seed)
        except BaseException:
            self.close()
            raise

    def _build(self, folder: Path, seed: int) -> None:
        (folder / "kafka").mkdir()
        self._make_brokers(folder / "kafka")
        self.probe_user = MountedUsers(self.guarded, PREFIX, folder / "probe-secret", "certificate")
        self.worker_user = MountedUsers(self.guarded, PREFIX, folder / "worker-secret", "certificate")
        self.api = LocalApi(CLUSTER, NODES)
        self._closing.callback(self.api.close)
        hook = Hook()
        self._closing.callback(hook.close)
        self.workers = Workers(self._settings(folder, hook.url), folder)
        self._closing.callback(self.workers.close)
        self.fleet = Fleet(self.api, self.names, self.probe_connection(), folder, seed)
        self._closing.callback(self.fleet.close)
        tails = {"stdout": self.workers.output, "file": folder / "flows.log", "routes": folder / "routed.log"}
        self.hostile = Hostile(self.names, self.guarded.connection())
        self.account = Account(
            self.fleet, self.workers, {role: Tail(path) for role, path in tails.items()}, self.names,
            self.guarded.connection(), lambda: [alert["id"] for alert in list(hook.alerts)],
        )  # fmt: skip
        self._closing.callback(self.account.stop)

    def _make_brokers(self, folder: Path) -> None:
        tls_port = free_ports(len(NUMBERS))
        options = ("--secure", "--authorizer", "--tls-port", str(tls_port))
        self.brokers = BrokerCluster(folder, *options, client=administrator(folder))
        self._closing.callback(self.brokers.close)
        self.brokers.start(*NUMBERS)
        self.brokers.wait_until_complete(_START_S)
        tls_address = ",".join(f"127.0.0.1:{tls_port + at}" for at in range(len(NUMBERS)))
        self.guarded = GuardedBroker(self.brokers.address, tls_address, folder, IdentityProvider(folder))
        self.names = topics(PREFIX, PARTITIONS)
        made = [NewTopic(one.name, one.partitions, config=dict(one.config)) for one in self.names]
        # The client waits 10 s by default, and three brokers on a busy machine take longer over so many topics.
        for future in self.guarded.admin.create_topics(made, operation_timeout=90, request_timeout=120).values():
            future.result(120)

    def _settings(self, folder: Path, hook: str) -> dict[str, str]:
        """Return the settings of the roles. They are those that are shipped, but for what the account needs."""
        output = {"name": "all", "file": {"path": str(folder / "routed.log"), "max_bytes": 1 << 40}}
        routes = {"version": 1, "routes": [{"name": "all", "outputs": [output]}]}
        rule = {
            "name": "denied", "match": {"verdict": "deny"}, "group_by": ["port"],
            "above": {"threshold": THRESHOLD, "window": "1h"}, "resolve_after": "1d",
        }  # fmt: skip
        outputs = [{"name": "hook", "webhook": {"url": hook}}]
        alerts = {"version": 1, "rules": [rule], "outputs": outputs, "disable": ALL}
        for name, content in (("routes.yaml", routes), ("alerts.yaml", alerts)):
            (folder / name).write_text(json.dumps(content))
        return {
            **self.worker_user.env(), "WEIR_TOPIC_PREFIX": PREFIX, "WEIR_CLUSTER": CLUSTER,
            "WEIR_PARTITIONS": str(PARTITIONS), "KUBECONFIG": str(self.api.kubeconfig(folder)),
            "WEIR_SOURCE": "kubernetes", "WEIR_LOG_FORMAT": "json",
            "WEIR_FILE_PATH": str(folder / "flows.log"), "WEIR_FILE_MAX_BYTES": str(1 << 40),
            "WEIR_ROUTES": str(folder / "routes.yaml"), "WEIR_ALERTS": str(folder / "alerts.yaml"),
            "WEIR_ALERT_FIRING": "100000",
        }  # fmt: skip

    def probe_connection(self) -> dict[str, str]:
        """Return librdkafka's settings of the probes, with the credentials that are mounted now."""
        return load(KafkaSettings, self.probe_user.env()).connection()

    def revoke(self, acls: list[AclBinding]) -> None:
        """Take rights away, however long the brokers are away meanwhile."""
        persistently(lambda: self.guarded.revoke(acls))

    def close(self) -> None:
        """End everything, also what has started only in part."""
        self._closing.close()


def persistently(work: Callable[[], T]) -> T:
    """Try something that needs Kafka until Kafka does it."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return work()
        except (KafkaException, AssertionError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
