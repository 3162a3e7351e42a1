"""The settings of the connection to Kafka, which both services share, as configuration of librdkafka.

Nothing here connects.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enrich.runtime import oauth
from enrich.runtime.settings import SettingsError, setting

PROTOCOLS: Final = ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", oauth.MECHANISM)
_FIXED: Final = re.compile(
    # Addresses, identity and credentials, which have settings of their own.
    r"bootstrap\.servers|metadata\.broker\.list|security\.protocol|client\.(id|rack)|sasl\.(mechanisms?|username|password)"
    r"|(enable\.)?sasl\.oauthbearer\..*|https\.ca\..*"
    r"|ssl\.(ca|certificate|key)\.(location|pem)|ssl_.*|ssl\.keystore\..*"
    # Whether the broker is the one that it says it is; code that librdkafka would load; switches for its own tests.
    r"|enable\.ssl\.certificate\.verification|ssl\.endpoint\.identification\.algorithm|plugin\..*|ssl\.engine\..*|test\..*"
    # Producers: no record is lost, repeated out of order, or put on another partition.
    r"|acks|request\.required\.acks|enable\.idempotence|enable\.gapless\.guarantee|transactional\.id|transaction\..*"
    r"|retries|message\.send\.max\.retries|max\.in\.flight.*|delivery\.timeout\.ms|message\.timeout\.ms|partitioner"
    r"|sticky\..*|message\.(max|copy)\..*|linger\.ms|batch\..*|queue\..*|queuing\..*|compression\..*|delivery\.report.*|produce\..*"
    r"|topic\.metadata\.propagation\..*"
    # Consumers: groups, offsets, and which records are seen.
    r"|group\..*|enable\.auto\..*|auto\..*|offset\..*|isolation\.level|enable\.partition\.eof|check\.crcs"
    r"|session\.timeout\.ms|heartbeat\.interval\.ms|max\.poll\..*|partition\.assignment\..*|consume\..*|fetch\.wait\.max\.ms"
    r"|allow\.auto\..*|topic\.blacklist|default\..*|.*_cb|opaque|on_.*|logger|interceptors|enable\.random\.seed"
)
"""Settings of librdkafka that WEIR_KAFKA_EXTRA must not change."""

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
    # Brokers that are away are tried again after this long at most; the default is ten seconds.
    "reconnect.backoff.max.ms": "2000",
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
    """How the user is authenticated, with sasl_*: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER."""
    kafka_username: str = setting("WEIR_KAFKA_USERNAME", "")
    """The user name, with sasl_*."""
    kafka_password: str = setting("WEIR_KAFKA_PASSWORD", "")
    """The password of the user, with sasl_*."""
    kafka_username_file: Path | None = setting("WEIR_KAFKA_USERNAME_FILE", None)
    """File that holds the user name, instead of WEIR_KAFKA_USERNAME. A renewed one is taken into use."""
    kafka_password_file: Path | None = setting("WEIR_KAFKA_PASSWORD_FILE", None)
    """File that holds the password, instead of WEIR_KAFKA_PASSWORD. A renewed one is taken into use."""
    kafka_oauth_url: str = setting("WEIR_KAFKA_OAUTH_URL", "")
    """URL of the endpoint that gives tokens by OAuth's client credentials, with OAUTHBEARER. http:// is for this
    machine only."""
    kafka_oauth_client_id: str = setting("WEIR_KAFKA_OAUTH_CLIENT_ID", "")
    """The client's id at that endpoint."""
    kafka_oauth_client_id_file: Path | None = setting("WEIR_KAFKA_OAUTH_CLIENT_ID_FILE", None)
    """File that holds the client's id, instead of WEIR_KAFKA_OAUTH_CLIENT_ID. A renewed one is taken into use."""
    kafka_oauth_client_secret_file: Path | None = setting("WEIR_KAFKA_OAUTH_CLIENT_SECRET_FILE", None)
    """File that holds the client's secret. A renewed one is taken into use."""
    kafka_oauth_scope: str = setting("WEIR_KAFKA_OAUTH_SCOPE", "")
    """Scopes to ask for, separated by spaces, if the endpoint needs any."""
    kafka_oauth_extensions: tuple[str, ...] = setting("WEIR_KAFKA_OAUTH_EXTENSIONS", ())
    """What the brokers want to know beside the token, as name=value, separated by commas."""
    kafka_oauth_ca: Path | None = setting("WEIR_KAFKA_OAUTH_CA", None)
    """PEM file of the authorities that may sign the endpoint's certificate. By default the system's."""
    kafka_ca: Path | None = setting("WEIR_KAFKA_CA", None)
    """PEM file of the authorities that may sign the brokers' certificates, with *ssl. By default the system's."""
    kafka_certificate: Path | None = setting("WEIR_KAFKA_CERTIFICATE", None)
    """PEM file of the client certificate, with *ssl, for brokers that require one."""
    kafka_key: Path | None = setting("WEIR_KAFKA_KEY", None)
    """PEM file of the client certificate's key."""
    stall: float = setting("WEIR_STALL", 30.0, least=0.1)
    """Seconds that work may wait without any progress before /readyz says so. After 5 times that, clients of Kafka that
    make no progress although Kafka answers are replaced, or their process is restarted."""
    kafka_client_id: str = setting("WEIR_KAFKA_CLIENT_ID", "kubeweir")
    """Name of the clients in Kafka's logs, metrics and quotas (client.id)."""
    kafka_rack: str = setting("WEIR_KAFKA_RACK", "")
    """Rack or zone of this machine (client.rack): consumers read from a replica there, if the brokers allow it."""
    kafka_extra: tuple[str, ...] = setting("WEIR_KAFKA_EXTRA", ())
    """Further settings of librdkafka, as key=value, separated by commas; not those on which delivery depends. The
    enricher's consumer is another client and takes none of them."""

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.kafka_protocol.endswith("ssl")

    @property
    def uses_sasl(self) -> bool:
        """Whether a user is authenticated."""
        return self.kafka_protocol.startswith("sasl_")

    @property
    def uses_oauth(self) -> bool:
        """Whether the user is authenticated by tokens."""
        return self.uses_sasl and self.kafka_mechanism == oauth.MECHANISM

    def connection(self) -> dict[str, str]:
        """Return librdkafka's configuration. Raises :class:`SettingsError` for settings that contradict each other."""
        self._check()
        found = {"bootstrap.servers": self.kafka, **RECOVERY, "client.id": self.kafka_client_id, **self._extra()}
        if self.kafka_rack:
            found["client.rack"] = self.kafka_rack
        if self.kafka_protocol != "plaintext":
            found["security.protocol"] = self.kafka_protocol
        if self.uses_oauth:
            found |= self._oauth()
        elif self.uses_sasl:
            username, password = self.credentials()
            found |= {"sasl.mechanism": self.kafka_mechanism, "sasl.username": username, "sasl.password": password}
        if self.uses_tls:
            files = {"ssl.ca.location": self.kafka_ca, "ssl.certificate.location": self.kafka_certificate,
                     "ssl.key.location": self.kafka_key}  # fmt: skip
            found |= {name: str(path) for name, path in files.items() if path is not None}
        return found

    def credentials(self) -> tuple[str, str]:
        """Read user and password, from their files if there are any. Raises :class:`SettingsError`."""
        username = _content("WEIR_KAFKA_USERNAME_FILE", self.kafka_username_file) or self.kafka_username
        password = _content("WEIR_KAFKA_PASSWORD_FILE", self.kafka_password_file) or self.kafka_password
        if not (username and password):
            raise SettingsError(
                f"WEIR_KAFKA_PROTOCOL={self.kafka_protocol} needs WEIR_KAFKA_USERNAME and WEIR_KAFKA_PASSWORD, or "
                "files in WEIR_KAFKA_USERNAME_FILE and WEIR_KAFKA_PASSWORD_FILE that hold them"
            )
        return username, password

    def _oauth(self) -> dict[str, str]:
        client_id = _content("WEIR_KAFKA_OAUTH_CLIENT_ID_FILE", self.kafka_oauth_client_id_file)
        return oauth.configuration(
            self.kafka_oauth_url,
            client_id or self.kafka_oauth_client_id,
            _content("WEIR_KAFKA_OAUTH_CLIENT_SECRET_FILE", self.kafka_oauth_client_secret_file),
            self.kafka_oauth_scope,
            self.kafka_oauth_extensions,
            self.kafka_oauth_ca,
        )

    def certificates(self) -> dict[str, Path]:
        """Return the PEM files of certificates that the connection uses, each by what it is for."""
        tls = {"kafka_ca": self.kafka_ca, "kafka_client": self.kafka_certificate} if self.uses_tls else {}
        files = tls | ({"kafka_oauth_ca": self.kafka_oauth_ca} if self.uses_oauth else {})
        return {name: path for name, path in files.items() if path is not None}

    def credential_files(self) -> tuple[Path, ...]:
        """Return the files whose contents prove who the service is, and who the broker."""
        user: tuple[Path | None, ...] = ()
        if self.uses_oauth:
            user = (self.kafka_oauth_client_id_file, self.kafka_oauth_client_secret_file, self.kafka_oauth_ca)
        elif self.uses_sasl:
            user = (self.kafka_username_file, self.kafka_password_file)
        tls = (self.kafka_ca, self.kafka_certificate, self.kafka_key) if self.uses_tls else ()
        return tuple(path for path in (*user, *tls) if path is not None)

    def _extra(self) -> dict[str, str]:
        found = {}
        for text in self.kafka_extra:
            key, separator, value = (part.strip() for part in text.partition("="))
            if not (separator and key and value):
                raise SettingsError(f"WEIR_KAFKA_EXTRA: {key!r} must be key=value, as socket.keepalive.enable=true is")
            if _FIXED.fullmatch(key) or key in RECOVERY:
                raise SettingsError(
                    f"WEIR_KAFKA_EXTRA: {key} cannot be set, because delivery or the check of the broker's identity "
                    "depends on it, or because it has a setting of its own: remove it"
                )
            found[key] = value
        return found

    def _check(self) -> None:
        if self.kafka_protocol not in PROTOCOLS:
            raise SettingsError(f"WEIR_KAFKA_PROTOCOL={self.kafka_protocol!r}: must be {', '.join(PROTOCOLS)}")
        if self.uses_sasl and self.kafka_mechanism not in MECHANISMS:
            raise SettingsError(f"WEIR_KAFKA_MECHANISM={self.kafka_mechanism!r}: must be {', '.join(MECHANISMS)}")
        if self.kafka_oauth_url and not self.uses_oauth:
            raise SettingsError(
                "WEIR_KAFKA_OAUTH_URL is for WEIR_KAFKA_PROTOCOL=sasl_ssl with WEIR_KAFKA_MECHANISM=OAUTHBEARER: set "
                "these, or remove it"
            )
        if self.uses_oauth and self.kafka_oauth_ca is not None and not self.kafka_oauth_ca.is_file():
            raise SettingsError(f"WEIR_KAFKA_OAUTH_CA={self.kafka_oauth_ca}: the file does not exist")
        for variable, path in (
            ("WEIR_KAFKA_CA", self.kafka_ca),
            ("WEIR_KAFKA_CERTIFICATE", self.kafka_certificate),
            ("WEIR_KAFKA_KEY", self.kafka_key),
        ):
            if self.uses_tls and path is not None and not path.is_file():
                raise SettingsError(f"{variable}={path}: the file does not exist")
        if self.uses_tls and (self.kafka_certificate is None) != (self.kafka_key is None):
            raise SettingsError("WEIR_KAFKA_CERTIFICATE and WEIR_KAFKA_KEY must be set together")


def _content(variable: str, path: Path | None) -> str:
    """Return the text of a file without the end of its line; empty without a path. Raises :class:`SettingsError`."""
    if path is None:
        return ""
    try:
        text = path.read_text().strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}={path}: cannot be read: {error}") from error
    if not text:
        raise SettingsError(f"{variable}={path}: the file is empty")
    return text
