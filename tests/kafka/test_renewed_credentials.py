"""Credentials are renewed on disk and the earlier ones revoked: the probe and the workers go on, and lose nothing."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.credentials import CredentialWatch
from enrich.runtime.settings import load
from enrich.wire.topics import topics
from tests.e2e.node import Broker, Node
from tests.kafka.batches import write_manifests
from tests.kafka.exporter import Exporter
from tests.kafka.guarded import GuardedBroker
from tests.kafka.mounted_users import MountedUsers
from tests.kafka.site import PATIENCE_S, Site, ids_of
from tests.waiting import until

pytestmark = pytest.mark.kafka


class _Probe(Exporter):
    """An exporter that renews its credentials as the probe does."""

    def __init__(self, prefix: str, env: dict[str, str], folder: Path) -> None:
        self.settings, self.renewed = load(KafkaSettings, env), threading.Event()
        self.watch = CredentialWatch(self.settings, self._renew)
        super().__init__(topics(prefix, 4), self.settings.connection(), folder)

    def _renew(self) -> None:
        self.renew(self.settings.connection())
        self.renewed.set()


@pytest.fixture(params=["password", "certificate"])
def users(request: pytest.FixtureRequest, guarded: GuardedBroker, tmp_path: Path) -> MountedUsers:
    return MountedUsers(guarded, f"t{secrets.token_hex(4)}", tmp_path / "secret", request.param)


@pytest.fixture
def site(users: MountedUsers, tmp_path: Path) -> Iterator[Site]:
    write_manifests(tmp_path / "manifests")
    settings = {**users.env(), "WEIR_FILE_PATH": str(tmp_path / "flows.log")}
    made = Site(users.address, users.prefix, tmp_path, settings=settings)
    yield made
    made.end()


@pytest.fixture
def probe(users: MountedUsers, tmp_path: Path) -> Iterator[_Probe]:
    made = _Probe(users.prefix, users.env(), tmp_path)
    with made.watch.running():
        yield made
    made.stop()


@pytest.mark.timeout(900)
def test_records_go_on_with_the_new_user_when_the_earlier_one_has_no_right_left(
    users: MountedUsers, site: Site, probe: _Probe, tmp_path: Path
) -> None:
    output = tmp_path / "flows.log"

    def all_are_there() -> bool:
        return ids_of(output) == {f"r1-{number}" for number in range(probe.given * 10)}

    supervised = site.start("enrich")
    alone = site.start("file", "--alone")
    probe.give(10)
    until(all_are_there)
    supervised_line = supervised.wait_for("started", role="enrich")
    rights = users.add()
    probe.give(10)
    assert probe.renewed.wait(PATIENCE_S)

    def restarted() -> bool:
        starts = [line["pid"] for line in supervised.lines() if line["event"] == "started"]
        return len(starts) == 2 and starts[0] == supervised_line["pid"]

    until(restarted)
    until(lambda: [line["event"] for line in alone.lines()].count("starting") == 2)
    users.guarded.revoke(rights)
    probe.give(10)
    until(probe.has_sent_all)
    until(all_are_there)
    assert not probe.batches.failed.is_set()
    assert not [line for line in supervised.lines() if line["event"].startswith("a role ended")]
    assert alone.stop() == 0
    assert supervised.stop() == 0


@pytest.mark.e2e
@pytest.mark.parametrize("users", ["certificate"], indirect=True)
def test_a_running_probe_takes_renewed_credentials_into_use(users: MountedUsers, tmp_path: Path) -> None:
    node = Node(Broker(tmp_path), tmp_path)
    node.topic_prefix = users.prefix
    try:
        probe = node.start(**users.env(), WEIR_CLUSTER="c1", WEIR_HEARTBEAT="0.2")
        until(lambda: probe.get("/readyz")[0] == 200 and probe.metric("kubeweir_probe_acked_batches_total") > 0)
        rights = users.add()
        probe.wait_for("the credentials of Kafka on disk were renewed")
        users.guarded.revoke(rights)
        # Batches that the earlier client had sent may be counted after the revocation.
        before = probe.metric("kubeweir_probe_acked_batches_total") + 10
        until(lambda: probe.metric("kubeweir_probe_acked_batches_total") > before)
        assert probe.get("/readyz")[0] == 200
        assert probe.stop() == 0
        assert len(probe.lines("started")) == 1
    finally:
        node.close()
