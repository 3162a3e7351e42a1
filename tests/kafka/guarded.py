"""A Kafka that lets nobody do anything but what an ACL allows: SASL_SSL, client certificates, StandardAuthorizer.

Each test makes its own users, so that tests that share the broker do not change each other's rights.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from ports import free_port

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import load
from tests.kafka.broker import run_broker
from tests.kafka.identity import Client, IdentityProvider, run_identity_provider
from tests.waiting import until

_ANSWER_S = 30


@dataclass
class GuardedBroker:
    """The broker, and what its administrator (user weir) does for tests."""

    address: str
    """host:port of the SASL_SSL listener."""
    tls_address: str
    """host:port of the listener that requires a client certificate."""
    folder: Path
    """The broker's folder, with its authority: ca.crt and ca.key."""
    identity: IdentityProvider
    """Gives tokens that the broker takes."""
    admin: AdminClient = field(init=False)

    def __post_init__(self) -> None:
        self.admin = AdminClient({**self.connection(), "log_level": 0})

    @property
    def ca(self) -> Path:
        """The certificate of the authority that signed the broker's."""
        return self.folder / "ca.crt"

    def connection(self) -> dict[str, str]:
        """Return librdkafka's settings of the administrator."""
        return load(KafkaSettings, self.env("weir", "weir")).connection()

    def env(self, user: str, password: str, mechanism: str = "SCRAM-SHA-512") -> dict[str, str]:
        """Return the settings by which a service connects as a user."""
        return {
            "WEIR_KAFKA": self.address,
            "WEIR_KAFKA_PROTOCOL": "sasl_ssl",
            "WEIR_KAFKA_MECHANISM": mechanism,
            "WEIR_KAFKA_USERNAME": user,
            "WEIR_KAFKA_PASSWORD": password,
            "WEIR_KAFKA_CA": str(self.ca),
        }

    def user(self, name: str | None = None, password: str = "secret") -> tuple[str, dict[str, str]]:  # noqa: S107 - a test's
        """Make a user, or give one another password. Return its name and :meth:`env`."""
        name = name or f"u{secrets.token_hex(4)}"
        scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(name, scram, password.encode())
        for future in self.admin.alter_user_scram_credentials([change]).values():
            future.result(_ANSWER_S)
        env = self.env(name, password)
        # The broker answers before it has applied the change.
        until(lambda: _can_log_in(env))
        return name, env

    def client(self, secret: str = "s3cr3t", **options: Any) -> tuple[str, dict[str, str]]:  # noqa: S107 - a test's
        """Make a client of the token endpoint. Return its id, which is the user's name, and its settings."""
        name = f"c{secrets.token_hex(4)}"
        self.identity.clients[name] = Client(secret, **options)
        tls = {"WEIR_KAFKA": self.address, "WEIR_KAFKA_PROTOCOL": "sasl_ssl", "WEIR_KAFKA_CA": str(self.ca)}
        return name, self.identity.env(name, **tls)

    def create(self, topic: str) -> None:
        """Create a topic of one partition."""
        self.admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(_ANSWER_S)

    def allow(
        self, user: str, kind: ResourceType, name: str, *operations: AclOperation, prefixed: bool = True
    ) -> list[AclBinding]:
        """Allow a user some operations on the topics, groups or transactional ids that begin with ``name``."""
        pattern = ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL
        return self._add(user, kind, name, operations, pattern, AclPermissionType.ALLOW)

    def deny(self, user: str, kind: ResourceType, name: str, operation: AclOperation) -> list[AclBinding]:
        """Deny a user an operation on what begins with ``name``, also if a rule allows it; :meth:`revoke` ends that."""
        return self._add(user, kind, name, (operation,), ResourcePatternType.PREFIXED, AclPermissionType.DENY)

    def revoke(self, acls: Iterable[AclBinding]) -> None:
        """Take back what :meth:`allow` returned."""
        for one in acls:
            same = AclBindingFilter(
                one.restype, one.name, one.resource_pattern_type, one.principal, one.host, one.operation,
                one.permission_type,
            )  # fmt: skip
            for future in self.admin.delete_acls([same]).values():
                future.result(_ANSWER_S)
            until(lambda one=one: one not in self.acls(one.principal.removeprefix("User:")))  # type: ignore[misc]

    def _add(
        self,
        user: str,
        kind: ResourceType,
        name: str,
        operations: Iterable[AclOperation],
        pattern: ResourcePatternType,
        permission: AclPermissionType,
    ) -> list[AclBinding]:
        acls = [AclBinding(kind, name, pattern, f"User:{user}", "*", operation, permission) for operation in operations]
        for future in self.admin.create_acls(acls).values():
            future.result(_ANSWER_S)
        until(lambda: set(acls) <= set(self.acls(user)))
        return acls

    def acls(self, user: str) -> list[AclBinding]:
        """Return the ACLs of a user."""
        every = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, f"User:{user}", None, AclOperation.ANY,
            AclPermissionType.ANY,
        )  # fmt: skip
        return list(self.admin.describe_acls(every).result(_ANSWER_S))

    def certificate(self, folder: Path, name: str, days: int = 30) -> dict[str, str]:
        """Make a certificate for CN=``name``, and its key, in a folder; replace those that are there.

        Return the settings by which a service connects with it. The principal is User:CN=``name``."""
        folder.mkdir(parents=True, exist_ok=True)
        key, request, made = folder / "tls.key.new", folder / "tls.csr", folder / "tls.crt.new"
        commands = [
            ["req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request)],
            ["x509", "-req", "-in", str(request), "-CA", str(self.ca), "-CAkey", str(self.folder / "ca.key"),
             "-set_serial", str(secrets.randbits(63)), "-days", str(days), "-out", str(made)],
        ]  # fmt: skip
        for arguments in commands:
            subprocess.run(["openssl", *arguments], check=True, capture_output=True)
        key.replace(folder / "tls.key")
        made.replace(folder / "tls.crt")
        return {
            "WEIR_KAFKA": self.tls_address,
            "WEIR_KAFKA_PROTOCOL": "ssl",
            "WEIR_KAFKA_CA": str(self.ca),
            "WEIR_KAFKA_CERTIFICATE": str(folder / "tls.crt"),
            "WEIR_KAFKA_KEY": str(folder / "tls.key"),
        }


def administrator(folder: Path) -> dict[str, str]:
    """Return librdkafka's settings of user weir, who may do everything, for a broker's folder. They need no SCRAM."""
    return {
        "security.protocol": "sasl_ssl", "sasl.mechanism": "PLAIN", "sasl.username": "weir", "sasl.password": "weir",
        "ssl.ca.location": str(folder / "ca.crt"),
    }  # fmt: skip


def run_guarded_broker(folder: Path) -> Iterator[GuardedBroker]:
    """Run the broker until the generator is closed."""
    tls_port = free_port()
    client = administrator(folder / "broker")
    with run_identity_provider(folder / "identity") as identity:
        options = ("--secure", "--authorizer", "--tls-port", str(tls_port), "--jwks", identity.keys_url)
        for address in run_broker(folder, *options, client=client):
            yield GuardedBroker(address, f"127.0.0.1:{tls_port}", folder / "broker", identity)


def _can_log_in(env: dict[str, str]) -> bool:
    try:
        AdminClient({**load(KafkaSettings, env).connection(), "log_level": 0}).list_topics(timeout=10)
    except KafkaException:
        return False
    return True
