"""How Kafka is reached and by whom: the settings that both services share, as librdkafka wants them. No Kafka here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enrich.runtime.settings import SettingsError, setting

PROTOCOLS: Final = ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """The part of a service's settings that is about the connection."""

    kafka: str = setting("WEIR_KAFKA", "127.0.0.1:9092")
    """Kafka's bootstrap servers, host:port, comma between."""
    kafka_protocol: str = setting("WEIR_KAFKA_PROTOCOL", "plaintext")
    """plaintext, ssl, sasl_plaintext or sasl_ssl."""
    kafka_mechanism: str = setting("WEIR_KAFKA_MECHANISM", "SCRAM-SHA-512")
    """How a user is authenticated (sasl_*): PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."""
    kafka_username: str = setting("WEIR_KAFKA_USERNAME", "")
    """The user (sasl_*)."""
    kafka_password: str = setting("WEIR_KAFKA_PASSWORD", "")
    """The user's password (sasl_*)."""
    kafka_ca: Path | None = setting("WEIR_KAFKA_CA", None)
    """File of the authorities that may sign the brokers' certificates, PEM (*ssl); by default the system's."""
    kafka_certificate: Path | None = setting("WEIR_KAFKA_CERTIFICATE", None)
    """File of our own certificate, PEM (*ssl), for brokers that ask for one."""
    kafka_key: Path | None = setting("WEIR_KAFKA_KEY", None)
    """File of its key, PEM."""

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.kafka_protocol.endswith("ssl")

    @property
    def uses_sasl(self) -> bool:
        """Whether a user is authenticated."""
        return self.kafka_protocol.startswith("sasl_")

    def connection(self) -> dict[str, str]:
        """librdkafka's settings. Raises :class:`SettingsError` for what cannot be."""
        self._check()
        found = {"bootstrap.servers": self.kafka}
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
                raise SettingsError(f"{variable}={path}: there is no such file")
        if self.uses_tls and (self.kafka_certificate is None) != (self.kafka_key is None):
            raise SettingsError("WEIR_KAFKA_CERTIFICATE and WEIR_KAFKA_KEY belong together")
