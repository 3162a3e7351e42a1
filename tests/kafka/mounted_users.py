"""Users of a guarded Kafka whose credentials are mounted as a Kubernetes secret, and renewed there."""

from __future__ import annotations

import secrets
from pathlib import Path

from confluent_kafka.admin import AclBinding, AclOperation, ResourceType

from tests.kafka.guarded import GuardedBroker


class MountedUsers:
    """Users with all rights on what begins with a prefix, and the mounted secret that names one of them."""

    def __init__(self, guarded: GuardedBroker, prefix: str, folder: Path, kind: str) -> None:
        """``kind`` is password or certificate: how users log in."""
        self.guarded, self.prefix, self.folder = guarded, prefix, folder
        self.acls: list[AclBinding] = []
        self.address = guarded.tls_address if kind == "certificate" else guarded.address
        self._make = self._certificate if kind == "certificate" else self._password
        folder.mkdir()
        self.settings: dict[str, str] = {}
        self.add()
        for file in (folder / "..data").iterdir():
            (folder / file.name).symlink_to(f"..data/{file.name}")

    def add(self) -> list[AclBinding]:
        """Make a user and mount it; return the rights of the one that was mounted before."""
        version = self.folder / f"..{secrets.token_hex(4)}"
        version.mkdir()
        user = self._make(version)
        before, self.acls = self.acls, []
        for kind in (ResourceType.TOPIC, ResourceType.GROUP, ResourceType.TRANSACTIONAL_ID):
            self.acls += self.guarded.allow(user, kind, self.prefix, AclOperation.ALL)
        link = self.folder / "..new"
        link.symlink_to(version.name)
        link.replace(self.folder / "..data")
        return before

    def _password(self, version: Path) -> str:
        password = secrets.token_hex(8)
        user, _ = self.guarded.user(password=password)
        (version / "username").write_text(user)
        (version / "password").write_text(password)
        files = {"WEIR_KAFKA_USERNAME_FILE": "username", "WEIR_KAFKA_PASSWORD_FILE": "password"}
        self.settings = self.guarded.env("", "") | {name: str(self.folder / file) for name, file in files.items()}
        return user

    def _certificate(self, version: Path) -> str:
        user = f"u{secrets.token_hex(4)}"
        made = self.guarded.certificate(version, user)
        self.settings = {name: value.replace(str(version), str(self.folder)) for name, value in made.items()}
        return f"CN={user}"

    def env(self) -> dict[str, str]:
        """Return the settings of a service that reads the mounted secret."""
        return self.settings
