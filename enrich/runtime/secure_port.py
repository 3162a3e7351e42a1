"""The settings by which the metrics port speaks TLS and asks who reads it, and what the port needs for that.

Without a certificate that can be used, every connection is closed: the port never falls back to text.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from enrich.runtime.connection import KafkaSettings
from enrich.runtime.renewed_certificate import RenewedCertificate
from enrich.runtime.settings import SettingsError, setting
from enrich.runtime.token_gate import TokenGate


@dataclass(frozen=True, slots=True)
class MetricsSettings(KafkaSettings):
    """The settings of the metrics port that both services share."""

    metrics_certificate: Path | None = setting("WEIR_METRICS_CERTIFICATE", None)
    """PEM file of the certificate of the metrics port, which then speaks TLS only. A renewed one is taken into use."""
    metrics_key: Path | None = setting("WEIR_METRICS_KEY", None)
    """PEM file of that certificate's key."""
    metrics_auth: Literal["none", "kubernetes"] = setting("WEIR_METRICS_AUTH", "none")
    """Who may read the metrics port: none (everybody who reaches it), or kubernetes (bearers of a token to whom RBAC
    gives the verb get on the nonResourceURL /metrics, and on /readyz for its reasons; needs TLS). /healthz, and whether
    /readyz is ok, stay open for the kubelet."""

    def certificates(self) -> dict[str, Path]:
        """Return the PEM files of certificates, each by what it is for."""
        own = {} if self.metrics_certificate is None else {"metrics": self.metrics_certificate}
        return KafkaSettings.certificates(self) | own

    def check_metrics(self) -> None:
        """Raise SettingsError for settings of the port that contradict each other."""
        if (self.metrics_certificate is None) != (self.metrics_key is None):
            raise SettingsError("WEIR_METRICS_CERTIFICATE and WEIR_METRICS_KEY must be set together")
        if self.metrics_auth != "none" and self.metrics_certificate is None:
            raise SettingsError(
                "WEIR_METRICS_AUTH=kubernetes needs WEIR_METRICS_CERTIFICATE and WEIR_METRICS_KEY: tokens must not "
                "travel in plain text"
            )


class Guard:
    """Wraps accepted connections in TLS, and says who may read."""

    def __init__(self, certificate: Path, key: Path, gate: TokenGate | None = None) -> None:
        """``gate``: None lets everybody read who can connect."""
        self._certificate, self.gate = RenewedCertificate("the metrics port", certificate, key), gate

    def wrap(self, accepted: socket.socket) -> ssl.SSLSocket:
        """Return the server's end of TLS on a socket that does not block. Raises OSError without a certificate."""
        context = self._certificate.context()
        if context is None:
            raise OSError("no certificate")
        return context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)


def bearer_token(headers: Iterable[str]) -> str:
    """Return the bearer token in the lines of a request's head, empty if there is none."""
    for line in headers:
        name, _, value = line.partition(":")
        kind, _, token = value.strip().partition(" ")
        if name.lower() == "authorization" and kind.lower() == "bearer":
            return token.strip()
    return ""


def end_of_answer(connection: socket.socket) -> None:
    """Tell the client that nothing follows, without waiting for it. Raises OSError."""
    if isinstance(connection, ssl.SSLSocket):
        with contextlib.suppress(OSError, ValueError):
            connection.unwrap()
    else:
        connection.shutdown(socket.SHUT_WR)
