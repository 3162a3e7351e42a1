"""Connects to a broker step by step: name, port, TLS, client certificate, user. The first step that fails is the cause.

The settings are librdkafka's, as :meth:`enrich.runtime.connection.KafkaSettings.connection` returns them.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Mapping
from typing import Final

from enrich.diagnosis.protocol import Channel, ProtocolError
from enrich.diagnosis.sasl import authenticate
from enrich.runtime.certificates import FOR_ANOTHER_NAME, NOT_VALID_NOW

_TIMEOUT_S: Final = 3.0
_CLIENT_ID: Final = "kubeweir-diagnosis"
_DEFAULT_PORT: Final = 9092


class RefusedConnectionError(Exception):
    """A connection is refused. The message says what happened, to what, and what to do."""


def addresses(servers: str) -> list[tuple[str, int]]:
    """Return host and port of each bootstrap server."""
    found = []
    for server in filter(None, (part.strip() for part in servers.split(","))):
        host, separator, port = server.rpartition("://")[2].rpartition(":")
        if separator and port.isdigit():
            found.append((host.strip("[]"), int(port)))
        else:
            found.append((server.strip("[]"), _DEFAULT_PORT))
    return found


def connect(connection: Mapping[str, str], address: tuple[str, int]) -> Channel:
    """Return a channel on which the user is authenticated. Raises RefusedConnectionError."""
    where = f"{address[0]}:{address[1]}"
    protocol = connection.get("security.protocol", "plaintext")
    connected = _tcp(address, where)
    with contextlib.ExitStack() as stack:
        stack.callback(connected.close)
        if protocol.endswith("ssl"):
            connected = _tls(connection, connected, address, where)
            stack.callback(connected.close)
        channel = Channel(connected, _CLIENT_ID)
        try:
            channel.api_versions()
        except OSError as error:
            raise RefusedConnectionError(_first_request_failed(connection, address, where, error)) from error
        _authenticated(connection, channel, where)
        stack.pop_all()
        return channel
    raise AssertionError


def _authenticated(connection: Mapping[str, str], channel: Channel, where: str) -> None:
    protocol = connection.get("security.protocol", "plaintext")
    try:
        if protocol.startswith("sasl_"):
            refusal = authenticate(channel, connection, where)
            if refusal:
                raise RefusedConnectionError(refusal)
        channel.metadata([])
    except OSError as error:
        if not protocol.startswith("sasl_") and isinstance(error, ProtocolError):
            raise RefusedConnectionError(
                f"the listener {where} wants a user, but WEIR_KAFKA_PROTOCOL={protocol} names none: set "
                f"sasl_{protocol}, WEIR_KAFKA_MECHANISM, WEIR_KAFKA_USERNAME and WEIR_KAFKA_PASSWORD"
            ) from error
        raise RefusedConnectionError(f"{where} does not go on answering: {error}") from error


def _tcp(address: tuple[str, int], where: str) -> socket.socket:
    try:
        return socket.create_connection(address, _TIMEOUT_S)
    except socket.gaierror as error:
        raise RefusedConnectionError(
            f"the host name of {where} cannot be resolved ({error.strerror}): correct it, or the name service"
        ) from error
    except TimeoutError as error:
        raise RefusedConnectionError(
            f"{where} does not answer within {_TIMEOUT_S:.0f} s: is a broker running there, and does no firewall or "
            "NetworkPolicy drop the packets?"
        ) from error
    except OSError as error:
        raise RefusedConnectionError(
            f"{where} takes no connection ({error.strerror or error}): is a broker running there, on this port?"
        ) from error


def _tls(
    connection: Mapping[str, str], connected: socket.socket, address: tuple[str, int], where: str
) -> ssl.SSLSocket:
    authority, certificate = connection.get("ssl.ca.location"), connection.get("ssl.certificate.location")
    try:
        context = ssl.create_default_context(cafile=authority)
    except (OSError, ssl.SSLError) as error:
        raise RefusedConnectionError(f"WEIR_KAFKA_CA={authority} cannot be read as PEM: {error}") from error
    try:
        if certificate:
            context.load_cert_chain(certificate, connection.get("ssl.key.location"))
    except (OSError, ssl.SSLError) as error:
        raise RefusedConnectionError(
            f"WEIR_KAFKA_CERTIFICATE={certificate} and WEIR_KAFKA_KEY cannot be used together: {error}"
        ) from error
    try:
        return context.wrap_socket(connected, server_hostname=address[0])
    except ssl.SSLCertVerificationError as error:
        raise RefusedConnectionError(_certificate_refused(error, authority, address, where)) from error
    except TimeoutError as error:
        raise RefusedConnectionError(f"{where} does not answer the TLS handshake within {_TIMEOUT_S:.0f} s") from error
    except OSError as error:
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
            raise RefusedConnectionError(_client_refused(connection, where, str(error.reason))) from error
        protocol = connection["security.protocol"]
        raise RefusedConnectionError(
            f"{where} does not speak TLS, but WEIR_KAFKA_PROTOCOL={protocol} does: set "
            f"{protocol.replace('ssl', 'plaintext')}, or the address of a TLS listener in WEIR_KAFKA"
        ) from error


def _certificate_refused(
    error: ssl.SSLCertVerificationError, authority: str | None, address: tuple[str, int], where: str
) -> str:
    if error.verify_code in FOR_ANOTHER_NAME:
        names = _names(authority, address)
        shown = "" if names is None else f" but for {', '.join(names) or 'no names at all'}"
        return (
            f"the certificate of {where} is not for {address[0]!r}{shown}: use a name that it is for in WEIR_KAFKA and "
            "in the broker's advertised.listeners, or give the broker a certificate for this one"
        )
    if error.verify_code in NOT_VALID_NOW:
        return (
            f"the certificate of {where} is not valid now ({error.verify_message}): renew the broker's certificate, "
            "and compare the clocks"
        )
    trusted = f"WEIR_KAFKA_CA={authority}" if authority else "the system's authorities (WEIR_KAFKA_CA is not set)"
    return (
        f"the certificate of {where} is not signed by an authority in {trusted} ({error.verify_message}): set "
        "WEIR_KAFKA_CA to the PEM file of the authority that signs the brokers' certificates"
    )


def _names(authority: str | None, address: tuple[str, int]) -> list[str] | None:
    """Return the names that the certificate of a broker is for; None if the broker does not answer again."""
    context = ssl.create_default_context(cafile=authority)
    context.check_hostname = False
    try:
        with (
            socket.create_connection(address, _TIMEOUT_S) as connected,
            context.wrap_socket(connected) as encrypted,
        ):
            found = encrypted.getpeercert() or {}
    except OSError:
        return None
    alternatives = found.get("subjectAltName", ())
    return [str(name[1]) for name in alternatives if isinstance(name, tuple)]


def _first_request_failed(connection: Mapping[str, str], address: tuple[str, int], where: str, error: OSError) -> str:
    """Say why a broker has not answered the first request, which all versions answer without a user."""
    protocol = connection.get("security.protocol", "plaintext")
    if isinstance(error, TimeoutError):
        return f"{where} is connected but does not answer within {_TIMEOUT_S:.0f} s: is the broker overloaded?"
    if protocol.endswith("ssl"):
        return _client_refused(connection, where, str(getattr(error, "reason", None) or error))
    if _speaks_tls(address):
        return (
            f"{where} expects TLS, but WEIR_KAFKA_PROTOCOL={protocol} does not use it: set "
            f"{protocol.replace('plaintext', 'ssl')} and WEIR_KAFKA_CA, or the address of a plaintext listener"
        )
    if isinstance(error, ConnectionError):
        return f"{where} closes the connection ({error}): no broker runs behind it now, or WEIR_KAFKA must be corrected"
    return f"{where} does not speak Kafka's protocol ({error}): correct WEIR_KAFKA"


def _client_refused(connection: Mapping[str, str], where: str, why: str) -> str:
    certificate = connection.get("ssl.certificate.location")
    if not certificate:
        return (
            f"{where} has closed the connection after the TLS handshake ({why}): it requires a client certificate; set "
            "WEIR_KAFKA_CERTIFICATE and WEIR_KAFKA_KEY, or the address of a listener without"
        )
    return (
        f"{where} refuses the client certificate {certificate} ({why}): it must be valid now and signed by an "
        "authority that the broker trusts"
    )


def _speaks_tls(address: tuple[str, int]) -> bool:
    """Return whether a listener answers a TLS handshake; nothing is sent on the connection, so nothing is verified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(address, _TIMEOUT_S) as connected, context.wrap_socket(connected):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
