"""The settings of the connection to Kafka, which both services share, as configuration of librdkafka.

Nothing here connects.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enrich.runtime.settings import SettingsError, setting

PROTOCOLS: Final = ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

RECOVERY: Final = {
    # A broker that answers nothing (frozen, or behind a network that drops packets) is given up after so long. Until
    # then librdkafka takes it for alive, and a producer with records behind those under way uses a whole core.
    "socket.timeout.ms": "10000",
    # Brokers may return at other addresses. Then the client asks its bootstrap servers again, after so long; the
    # default is five minutes.
    "metadata.recovery.strategy": "rebootstrap",
    "metadata.recovery.rebootstrap.trigger.ms": "30000",
    "topic.metadata.refresh.interval.ms": "30000",
    "metadata.max.age.ms": "60000",
}
"""librdkafka's settings by which every client finds brokers again that were away, frozen or have moved."""


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """The settings of the connection, from which a service's settings inherit."""

    kafka: str = setting("WEIR_KAFKA", "127.0.0.1:9092")
    """Kafka's bootstrap servers: host:port, separated by commas."""
    kafka_protocol: str = setting("WEIR_KAFKA_PROTOCOL", "plaintext")
    """How to connect: plaintext, ssl, sasl_plaintext or sasl_ssl."""
    kafka_mechanism: str = setting("WEIR_KAFKA_MECHANISM", "SCRAM-SHA-512")
    """How the user is authenticated, with sasl_*: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."""
    kafka_username: str = setting("WEIR_KAFKA_USERNAME", "")
    """The user name, with sasl_*."""
    kafka_password: str = setting("WEIR_KAFKA_PASSWORD", "")
    """The password of the user, with sasl_*."""
    kafka_ca: Path | None = setting("WEIR_KAFKA_CA", None)
    """PEM file of the authorities that may sign the brokers' certificates, with *ssl. By default the system's."""
    kafka_certificate: Path | None = setting("WEIR_KAFKA_CERTIFICATE", None)
    """PEM file of the client certificate, with *ssl, for brokers that require one."""
    kafka_key: Path | None = setting("WEIR_KAFKA_KEY", None)
    """PEM file of the client certificate's key."""
    stall: float = setting("WEIR_STALL", 30.0, least=0.1)
    """Seconds that work may wait without any progress before /readyz says so. After 5 times that, clients of Kafka that
    make no progress although Kafka answers are replaced, or their process is restarted."""

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.kafka_protocol.endswith("ssl")

    @property
    def uses_sasl(self) -> bool:
        """Whether a user is authenticated."""
        return self.kafka_protocol.startswith("sasl_")

    def connection(self) -> dict[str, str]:
        """Return librdkafka's configuration. Raises :class:`SettingsError` for settings that contradict each other."""
        self._check()
        found = {"bootstrap.servers": self.kafka, **RECOVERY}
        if self.kafka_protocol != "plaintext":
            found["security.protocol"] = self.kafka_protocol
        if self.uses_sasl:
            found |= {"sasl.mechanism": self.kafka_mechanism, "sasl.username": self.kafka_username,
                      "sasl.password": self.kafka_password}  # fmt: skip
        if self.uses_tls:
            files = {"ssl.ca.location": self.kafka_ca, "ssl.certificate.location": self.kafka_certificate,
                     "ssl.key.location": self.kafka_key}  # fmt: skip
            found |= {name: str(path) for name, path in files.items() if path is not None}
        return found

    def _check(self) -> None:
        if self.kafka_protocol not in PROTOCOLS:
            raise SettingsError(f"WEIR_KAFKA_PROTOCOL={self.kafka_protocol!r}: must be {', '.join(PROTOCOLS)}")
        if self.uses_sasl and self.kafka_mechanism not in MECHANISMS:
            raise SettingsError(f"WEIR_KAFKA_MECHANISM={self.kafka_mechanism!r}: must be {', '.join(MECHANISMS)}")
        if self.uses_sasl and not (self.kafka_username and self.kafka_password):
            raise SettingsError(
                f"WEIR_KAFKA_PROTOCOL={self.kafka_protocol} needs WEIR_KAFKA_USERNAME and WEIR_KAFKA_PASSWORD"
            )
        for variable, path in (
            ("WEIR_KAFKA_CA", self.kafka_ca),
            ("WEIR_KAFKA_CERTIFICATE", self.kafka_certificate),
            ("WEIR_KAFKA_KEY", self.kafka_key),
        ):
            if self.uses_tls and path is not None and not path.is_file():
                raise SettingsError(f"{variable}={path}: the file does not exist")
        if self.uses_tls and (self.kafka_certificate is None) != (self.kafka_key is None):
            raise SettingsError("WEIR_KAFKA_CERTIFICATE and WEIR_KAFKA_KEY must be set together")
