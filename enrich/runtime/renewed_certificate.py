"""A server's certificate, which is read again when its files change.

While the files do not fit together, because a renewal is half done, the earlier certificate stays in use.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger("kubeweir.health")

_LOOK_S: Final = 2.0


class RenewedCertificate:
    """Makes TLS contexts for a server whose certificate may be renewed at any time."""

    def __init__(self, whose: str, certificate: Path, key: Path) -> None:
        """``whose`` names the server in the log, such as "the metrics port"."""
        self._whose, self._files = whose, (certificate, key)
        self._context: ssl.SSLContext | None = None
        self._in_use: object = None
        self._checked_at = -_LOOK_S
        self.problem = ""
        """Why the files cannot be used now; empty if they can."""

    def context(self) -> ssl.SSLContext | None:
        """Return a context with the newest certificate that can be used; None if there has been none."""
        if time.monotonic() - self._checked_at >= _LOOK_S:
            self._checked_at = time.monotonic()
            self._renew()
        return self._context

    def lasting_context(self) -> ssl.SSLContext:
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
        certificate, key = self._files
        try:
            found = tuple((one.stat().st_mtime_ns, one.stat().st_ino, one.stat().st_size) for one in self._files)
            if found == self._in_use:
                return
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            # Fails, too, if the key is not the certificate's. Without a password it would ask a terminal for one.
            context.load_cert_chain(certificate, key, password=lambda: "")
        except (OSError, ValueError) as error:
            if str(error) != self.problem:
                log.error(f"the certificate of {self._whose} cannot be used: the earlier one stays in use if there is "
                          "one", file=str(certificate), error=str(error))  # fmt: skip
            self.problem = str(error)
            return
        if self._context is not None:
            log.info(f"the certificate of {self._whose} was renewed", file=str(certificate))
        self._context, self._in_use, self.problem = context, found, ""
