"""A server's certificate, which is read again when its files change, and perhaps the authorities of its clients.

While the files do not fit together, because a renewal is half done, the earlier certificate stays in use, and so do the
earlier authorities.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger("kubeweir.health")

_LOOK_S: Final = 2.0


class ServerContext(ssl.SSLContext):
    """A TLS context that knows which authorities of clients it was made with."""

    authorities: str = ""
    """Their certificates in PEM; empty if clients are asked for none."""


class RenewedCertificate:
    """Makes TLS contexts for a server whose certificate may be renewed at any time."""

    def __init__(self, whose: str, certificate: Path, key: Path, authorities: Path | None = None) -> None:
        """``whose`` names the server in the log, such as "the metrics port". ``authorities``: clients may have a
        certificate, which one of these must have signed for a client; without one they connect, too."""
        self._whose, self._certificate, self._key, self._authorities = whose, certificate, key, authorities
        self._files = (certificate, key) if authorities is None else (certificate, key, authorities)
        self._context: ServerContext | None = None
        self._in_use: object = None
        self._checked_at = -_LOOK_S
        self.problem = ""
        """Why the files cannot be used now; empty if they can."""

    def context(self) -> ServerContext | None:
        """Return a context with the newest certificate that can be used; None if there has been none."""
        if time.monotonic() - self._checked_at >= _LOOK_S:
            self._checked_at = time.monotonic()
            self._renew()
        return self._context

    def lasting_context(self) -> ServerContext:
        """Return a context for a server that keeps it: each handshake uses the newest certificate that can be used.

        Raises OSError if there is no certificate that can be used."""
        first = self.context()
        if first is None:
            raise OSError(self.problem)

        def take_newest(connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
            connection.context = self.context() or first

        # OpenSSL calls it in every handshake, whether or not the client names the server.
        first.sni_callback = take_newest
        return first

    def _renew(self) -> None:
        """Read the certificate if its files have changed."""
        try:
            found = tuple((one.stat().st_mtime_ns, one.stat().st_ino, one.stat().st_size) for one in self._files)
            if found == self._in_use:
                return
            context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
            # Fails, too, if the key is not the certificate's. Without a password it would ask a terminal for one.
            context.load_cert_chain(self._certificate, self._key, password=lambda: "")
            if self._authorities is not None:
                _ask_clients(context, self._authorities.read_text())
        except (OSError, ValueError) as error:
            if str(error) != self.problem:
                log.error(f"the certificate of {self._whose} cannot be used: the earlier one stays in use if there is "
                          "one", file=str(self._certificate), error=str(error))  # fmt: skip
            self.problem = str(error)
            return
        if self._context is not None:
            log.info(f"the certificate of {self._whose} was renewed", file=str(self._certificate))
        self._context, self._in_use, self.problem = context, found, ""


def _ask_clients(context: ServerContext, authorities: str) -> None:
    """Ask clients for a certificate of these authorities. Raises OSError, ValueError."""
    context.load_verify_locations(cadata=authorities)
    context.authorities = authorities
    context.verify_mode = ssl.CERT_OPTIONAL
    # A resumed session keeps what was verified at its beginning, although the authorities may have changed since. Only
    # from version 1.3 on can a server say that nothing is resumed.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
