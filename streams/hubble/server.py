"""The gRPC server: where it listens, who may connect, and how much of it a client may use. Imports grpc.

Whoever connects reads every flow of the cluster. So it listens on loopback, or asks each client for a certificate of
an authority that is trusted for this alone; anything else is refused at the start.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import structlog

from enrich.runtime.listening import is_loopback, split_address
from enrich.runtime.settings import SettingsError

log = structlog.get_logger("kubeweir.streams")

_MAX_REQUEST_BYTES: Final = 256 << 10
_UNARY_THREADS: Final = 4
_OPTIONS: Final = [
    ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    # A second server on the port would get a part of the connections.
    ("grpc.so_reuseport", 0),
    # A client whose host has gone gives its place free.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_connection_idle_ms", 600_000),
    # Whoever reaches the port holds a descriptor for so long without a certificate; by default it is two minutes.
    ("grpc.server_handshake_timeout_ms", 10_000),
]


@dataclass(frozen=True, slots=True)
class Certificates:
    """The PEM files of mutual TLS."""

    certificate: Path
    key: Path
    clients: Path
    """The authorities whose certificates clients must have."""

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Return their contents. Raises OSError, and ValueError for an empty file."""
        found = (self.certificate.read_bytes(), self.key.read_bytes(), self.clients.read_bytes())
        if not all(found):
            raise ValueError("a file is empty")
        return found

    def check(self) -> None:
        """Raise OSError if gRPC could not use them, which itself does not say why."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.clients))
        # Without a password, OpenSSL would ask for that of an encrypted key at the terminal.
        context.load_cert_chain(self.certificate, self.key, password="")


def check_address(address: str, certificates: Certificates | None) -> None:
    """Raise SettingsError for an address that everybody could connect to."""
    split = split_address(address)
    if split is None or not split[0]:
        raise SettingsError(f"WEIR_HUBBLE={address}: must be host:port, such as 127.0.0.1:4245")
    if certificates is None and not is_loopback(split[0]):
        raise SettingsError(
            f"WEIR_HUBBLE={address}: whoever can connect reads every flow, so without certificates the address must be "
            "a loopback one, such as 127.0.0.1:4245; else set WEIR_HUBBLE_CERTIFICATE, WEIR_HUBBLE_KEY and "
            "WEIR_HUBBLE_CLIENT_CA"
        )


class Renewed:
    """Gives gRPC the certificates again when their files have changed; while they cannot be used, the earlier ones."""

    def __init__(self, files: Certificates) -> None:
        self._files, self._contents, self._problem = files, files.read(), ""
        files.check()

    def configuration(self) -> Any:
        """Return the certificates."""
        certificate, key, clients = self._contents
        return grpc.ssl_server_certificate_configuration([(key, certificate)], clients)

    def renew(self) -> Any | None:
        """Return the certificates if they are other ones; None: as before."""
        try:
            found = self._files.read()
            if found == self._contents:
                self._problem = ""
                return None
            self._files.check()
        except (OSError, ValueError) as error:
            if str(error) != self._problem:
                log.error("the certificates of the role hubble cannot be used; the earlier ones stay in use",
                          error=str(error))  # fmt: skip
            self._problem = str(error)
            return None
        self._contents, self._problem = found, ""
        log.info("the certificates of the role hubble were renewed")
        return self.configuration()


def start_server(
    address: str, handlers: Sequence[Any], streams: int, certificates: Certificates | None
) -> tuple[Any, int]:
    """Return a server that has started, and its port. Raises SettingsError, and OSError if the address is taken."""
    check_address(address, certificates)
    # gRPC itself refuses what is beyond, with RESOURCE_EXHAUSTED.
    limit = streams + _UNARY_THREADS
    threads = ThreadPoolExecutor(limit, thread_name_prefix="hubble")
    server = grpc.server(threads, handlers=handlers, options=_OPTIONS, maximum_concurrent_rpcs=limit)
    try:
        port = _bind(server, address, certificates)
    except RuntimeError as error:
        raise OSError(f"WEIR_HUBBLE={address} cannot be bound: it is taken, or no address of this machine") from error
    server.start()
    return server, port


def _bind(server: Any, address: str, certificates: Certificates | None) -> int:
    if certificates is None:
        return int(server.add_insecure_port(address))
    try:
        files = Renewed(certificates)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"WEIR_HUBBLE_CERTIFICATE, WEIR_HUBBLE_KEY and WEIR_HUBBLE_CLIENT_CA cannot be used: {error}"
        ) from error
    credentials = grpc.dynamic_ssl_server_credentials(
        files.configuration(), files.renew, require_client_authentication=True
    )
    return int(server.add_secure_port(address, credentials))
