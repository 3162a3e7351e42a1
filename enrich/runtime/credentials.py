"""Notices that the files with the credentials of the connection to Kafka were renewed.

The files are read every few seconds: the kubelet replaces a symbolic link above them, other programs rename or write
in place, and some file systems report no changes.

New contents are taken if two looks in a row find them and a client can be made from them. So a certificate whose key is
not written yet, or a file that is cut or gone, replaces nothing: the clients keep the credentials that they have.
"""

from __future__ import annotations

import contextlib
import hashlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from enrich.runtime.certificates import CertificateCollector, first_end
from enrich.runtime.connection import KafkaSettings
from enrich.runtime.settings import SettingsError

log = structlog.get_logger("kubeweir.kafka")

_LOOK_S: Final = 2.0


class CredentialWatch:
    """Compares the files with what they held when the object was made, or at the last renewal."""

    def __init__(self, settings: KafkaSettings, on_renewed: Callable[[], None]) -> None:
        """Make it before the clients, so that no renewal is missed. ``on_renewed`` may raise SettingsError."""
        self._settings, self._on_renewed = settings, on_renewed
        self._in_use = self._seen = self._refused = self._digest()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="credentials", daemon=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Look every few seconds, on a thread of its own, during the block."""
        if self._settings.credential_files():
            self._thread.start()
        try:
            yield
        finally:
            self._stop.set()

    def look(self) -> None:
        """Look once; call ``on_renewed`` if the credentials were renewed."""
        found = self._digest()
        is_stable, self._seen = found == self._seen, found
        if found == self._in_use:
            self._refused = found
            return
        if not is_stable or found == self._refused:
            return
        problem = credential_problem(self._settings)
        if self._digest() != found:
            return  # the next looks judge what is there now
        if problem is None:
            problem = self._renew()
        if problem is None:
            self._in_use = self._refused = found
            return
        self._refused = found
        log.warning(
            "the credentials of Kafka on disk have changed and cannot be used: the earlier ones stay in use until the "
            "files are right", problem=problem,
        )  # fmt: skip

    def _renew(self) -> str | None:
        log.info("the credentials of Kafka on disk were renewed: taking them into use")
        try:
            self._on_renewed()
        except SettingsError as error:
            return str(error)
        return None

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            self.look()

    def _digest(self) -> bytes:
        """Return a hash of the contents of all files; a file that cannot be read counts as a content of its own."""
        whole = hashlib.sha256()
        for path in self._settings.credential_files():
            try:
                whole.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError:
                whole.update(b"unreadable")
        return whole.digest()


def credential_problem(settings: KafkaSettings) -> str | None:
    """Return why no client can be made from the files as they are now; None if one can."""
    try:
        password = settings.connection().get("ssl.key.password", "")
    except SettingsError as error:
        return str(error)
    # Nothing is connected with these contexts; they only parse.
    if settings.uses_oauth:
        problem = _authority_problem(_context(), "WEIR_KAFKA_OAUTH_CA", settings.kafka_oauth_ca)
        if problem:
            return problem
    if not settings.uses_tls:
        return None
    context, certificate, key = _context(), settings.kafka_certificate, settings.kafka_key
    problem = _authority_problem(context, "WEIR_KAFKA_CA", settings.kafka_ca)
    return problem or _pair_problem(context, certificate, key, password)


def _context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _authority_problem(context: ssl.SSLContext, variable: str, path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        context.load_verify_locations(path)
    except (OSError, ValueError) as error:
        return f"{variable}={path}: {error}"
    return None


def _pair_problem(context: ssl.SSLContext, certificate: Path | None, key: Path | None, password: str) -> str | None:
    if certificate is None or key is None:
        return None
    try:
        # Fails, too, if the key is not the certificate's. Without the function, it would ask a terminal for a password.
        context.load_cert_chain(certificate, key, password=lambda: password)
    except (OSError, ValueError) as error:
        return f"WEIR_KAFKA_CERTIFICATE={certificate} with WEIR_KAFKA_KEY={key}: {error}"
    end = first_end(certificate)
    if end is not None and end < time.time():
        return f"WEIR_KAFKA_CERTIFICATE={certificate}: the certificate has expired"
    return None


def registry_with_credentials(settings: KafkaSettings) -> CollectorRegistry:
    """Return a registry that has the metrics of the credentials already."""
    registry = CollectorRegistry()
    registry.register(CertificateCollector(settings.certificates))
    registry.register(CredentialCollector(settings))
    return registry


class CredentialCollector(Collector):
    """Reads the files at each scrape."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings

    def collect(self) -> Iterator[Metric]:
        """Yield the gauge."""
        yield GaugeMetricFamily(
            "kubeweir_kafka_credentials_unusable",
            "1 while no client of Kafka can be made from the files with credentials; running clients keep theirs",
            value=0 if credential_problem(self._settings) is None else 1,
        )
