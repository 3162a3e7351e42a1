"""Each way in which Kafka refuses a service has a message of its own, which says what to do."""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AclOperation, ResourceType

from enrich.diagnosis.rights import Needs, causes
from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import load
from streams.kafka.reading import TopicReader
from streams.kafka.topics import existing_topics
from tests.kafka.batches import write_manifests
from tests.kafka.guarded import GuardedBroker
from tests.kafka.site import PATIENCE_S, Service, Site, until

pytestmark = pytest.mark.kafka

_SLOW_S = 7.0
"""Longer than the 5 s after which readers and admin clients once gave a connection up."""

READ, WRITE, DESCRIBE, CREATE = (
    AclOperation.READ,
    AclOperation.WRITE,
    AclOperation.DESCRIBE,
    AclOperation.CREATE,
)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate of nobody's authority, which is an authority of its own."""
    folder = tmp_path_factory.mktemp("stranger")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=stranger", "-keyout", "key",
               "-out", "crt"]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def elsewhere(guarded: GuardedBroker) -> Iterator[str]:
    """An address that leads to the broker and that its certificate is not for."""
    host, port = guarded.address.split(":")
    with socket.create_server(("127.0.0.2", 0)) as listener:
        threading.Thread(target=_forward, args=(listener, (host, int(port))), daemon=True).start()
        yield f"127.0.0.2:{listener.getsockname()[1]}"


def _forward(listener: socket.socket, to: tuple[str, int], delay_s: float = 0) -> None:
    while True:
        try:
            taken, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_copy, args=(taken, to, delay_s), daemon=True).start()


def _copy(taken: socket.socket, to: tuple[str, int], delay_s: float) -> None:
    time.sleep(delay_s)
    # Who looks at a certificate only leaves in the middle of a handshake.
    with contextlib.suppress(OSError), taken, socket.create_connection(to) as other:
        while True:
            for ready in select.select([taken, other], [], [])[0]:
                block = ready.recv(65536)
                if not block:
                    return
                (other if ready is taken else taken).sendall(block)


@pytest.fixture
def slow(guarded: GuardedBroker) -> Iterator[str]:
    """An address that leads to the broker, whose first bytes come after longer than a reader waits for an answer."""
    host, port = guarded.address.split(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_forward, args=(listener, (host, int(port)), _SLOW_S), daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def frozen() -> Iterator[str]:
    """The address of a broker that does nothing: its kernel takes connections all the same."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_broker_that_is_slow_over_the_tls_handshake_is_reached(
    guarded: GuardedBroker, slow: str, frozen: str
) -> None:
    connection = guarded.connection()
    topic = f"t{secrets.token_hex(4)}"
    guarded.create(topic)
    # Whichever of the two the client tries first: one that does not answer holds up no other.
    slowly = {**connection, "bootstrap.servers": f"{frozen},{slow}"}
    stop = threading.Event()
    seen: list[frozenset[str]] = []
    asking = threading.Thread(target=lambda: seen.append(existing_topics(slowly, stop)))
    asking.start()
    try:
        with contextlib.closing(TopicReader(slowly, topic, timeout_s=1)) as reader:
            assert reader.bounds() == {0: (0, 0)}
        asking.join(PATIENCE_S)
        assert topic in seen[0]
    finally:
        stop.set()


def found(env: dict[str, str], needs: Needs = Needs()) -> str:  # noqa: B008 - it is a value
    """Return the causes for a service with these settings."""
    return "\n".join(one.text for one in causes(load(KafkaSettings, env).connection(), needs))


def test_each_refused_connection_has_a_message_of_its_own(
    guarded: GuardedBroker, broker: str, elsewhere: str, stranger: Path, tmp_path: Path
) -> None:
    user, good = guarded.user()
    certificate = guarded.certificate(tmp_path, user)
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = f"127.0.0.1:{free.getsockname()[1]}"
    foreign = {"WEIR_KAFKA_CERTIFICATE": str(stranger / "crt"), "WEIR_KAFKA_KEY": str(stranger / "key")}
    plain = {"WEIR_KAFKA": broker}
    cases = [
        (good, ""),
        (certificate, ""),
        (good | {"WEIR_KAFKA_PASSWORD": "x"}, f"the password of the user '{user}' is wrong"),
        (good | {"WEIR_KAFKA_USERNAME": "nobody"}, "has no user 'nobody' for SCRAM-SHA-512"),
        (good | {"WEIR_KAFKA_MECHANISM": "PLAIN"}, f"refuses the user '{user}' or its password"),
        (good | {"WEIR_KAFKA_MECHANISM": "SCRAM-SHA-256"}, "does not take WEIR_KAFKA_MECHANISM=SCRAM-SHA-256: set one"),
        (good | {"WEIR_KAFKA_CA": str(stranger / "crt")}, "is not signed by an authority in WEIR_KAFKA_CA="),
        (good | {"WEIR_KAFKA": elsewhere}, "is not for '127.0.0.2' but for 127.0.0.1"),
        (good | {"WEIR_KAFKA_PROTOCOL": "plaintext"}, "WEIR_KAFKA_PROTOCOL=plaintext does not use it: set ssl"),
        (good | {"WEIR_KAFKA_PROTOCOL": "sasl_plaintext"}, "does not use it: set sasl_ssl"),
        (good | {"WEIR_KAFKA_PROTOCOL": "ssl"}, "wants a user, but WEIR_KAFKA_PROTOCOL=ssl names none"),
        (good | plain, "does not speak TLS, but WEIR_KAFKA_PROTOCOL=sasl_ssl does: set sasl_plaintext"),
        (good | plain | {"WEIR_KAFKA_PROTOCOL": "sasl_plaintext"}, "authenticates no users"),
        (good | {"WEIR_KAFKA": guarded.tls_address}, "it requires a client certificate"),
        (certificate | foreign, "refuses the client certificate"),
        (certificate | {"WEIR_KAFKA_KEY": str(stranger / "key")}, "cannot be used together"),
        ({"WEIR_KAFKA": closed}, "takes no connection (Connection refused)"),
        ({"WEIR_KAFKA": "kafka.invalid:9092"}, "the host name of kafka.invalid:9092 cannot be resolved"),
    ]
    for env, said in cases:
        answer = found(env)
        assert said in answer, env
        assert bool(answer) == bool(said), env
        assert "'secret'" not in answer


def test_each_missing_right_is_named_with_the_command_that_gives_it(guarded: GuardedBroker) -> None:
    user, env = guarded.user()
    prefix = f"t{secrets.token_hex(4)}"
    needs = Needs(
        reads=frozenset({f"{prefix}.in"}),
        writes=frozenset({f"{prefix}.out"}),
        groups=frozenset({f"{prefix}.group"}),
        transactions=frozenset({f"{prefix}.t."}),
    )
    said = found(env, needs)
    assert f"User:{user} has no right READ on the topic {prefix}.in: kafka-acls --add" in said
    assert f"no right WRITE on the topic {prefix}.out" in said
    assert f"no right READ on the group {prefix}.group" in said
    assert f"no right WRITE on the transactional id {prefix}.t.*" in said
    # What may be seen and not be used is named, too.
    guarded.allow(user, ResourceType.TOPIC, prefix, DESCRIBE, CREATE)
    guarded.allow(user, ResourceType.GROUP, prefix, DESCRIBE)
    guarded.allow(user, ResourceType.TRANSACTIONAL_ID, prefix, WRITE)
    for name in ("in", "out"):
        guarded.create(f"{prefix}.{name}")
    # The first look for a coordinator makes the broker create its own topic.
    said = until(
        lambda: text if f"no right READ on the group {prefix}.group" in (text := found(env, needs)) else None,
        "the group's missing right",
    )
    assert f"no right READ on the topic {prefix}.in" in said
    assert f"no right WRITE on the topic {prefix}.out" in said
    assert "on the transactional id" not in said
    guarded.allow(user, ResourceType.TOPIC, prefix, READ, WRITE)
    guarded.allow(user, ResourceType.GROUP, prefix, READ)
    # As above, for the transactional ids.
    until(lambda: found(env, needs) == "" or None, "no cause")


@pytest.fixture
def rightless(guarded: GuardedBroker, tmp_path: Path) -> Iterator[tuple[Site, str]]:
    """The services of a user who may do everything but read by a group; and the user's name."""
    user, env = guarded.user()
    write_manifests(tmp_path / "manifests")
    site = Site(guarded.address, f"t{secrets.token_hex(4)}", tmp_path, load(KafkaSettings, env).connection(), env)
    guarded.allow(user, ResourceType.TOPIC, site.prefix, READ, WRITE, CREATE, AclOperation.DESCRIBE_CONFIGS)
    guarded.allow(user, ResourceType.TRANSACTIONAL_ID, site.prefix, WRITE)
    yield site, user
    site.end()


def test_a_group_that_may_not_be_read_is_named_by_every_role(
    guarded: GuardedBroker, rightless: tuple[Site, str]
) -> None:
    site, user = rightless
    roles = {"enrich": "enrich", "stdout": "sink.stdout", "alerts": "alerts.count"}
    services = {role: site.start(role, "--alone", WEIR_CLUSTER="c1") for role in roles}
    for role, group in roles.items():
        _named(services[role], role, f"no right READ on the group {site.prefix}.c1.{group}: kafka-acls --add")
    guarded.allow(user, ResourceType.GROUP, site.prefix, READ)
    for role, service in services.items():
        until(lambda role=role, service=service: service.get("/readyz", role)[0] == 200 or None, f"{role}: ready")  # type: ignore[misc]


def _named(service: Service, role: str, cause: str) -> None:
    """Wait until /readyz names the cause."""

    def look() -> bool | None:
        status, text = service.get("/readyz", role)
        return (status == 503 and cause in text) or None

    until(look, f"{role}: {cause}")
