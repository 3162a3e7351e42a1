"""Believes the user headers of a front proxy, as the API server of Kubernetes does, and no others.

THEORY OF OPERATION

A proxy in front of the page signs people in, by a company's accounts for example, and says in headers who asks:
``X-Remote-User``, ``X-Remote-Group`` for each group, and ``X-Remote-Extra-KEY``. Whoever reaches the port can send
such headers. So they are only believed from a connection whose client certificate is signed by one of the authorities
in WEIR_WEB_PROXY_CA, with a common name in WEIR_WEB_PROXY_NAMES:

1. OpenSSL verifies the certificate, for the purpose of a client. A certificate that it does not trust ends the
   handshake; without any, the connection is that of a browser, which needs a token.
2. The protocol class of the server (:class:`ProxyProtocol`) gives each request the connection that it came by, in the
   request's state, which nothing that a client sends can change.
3. A request with ``X-Remote-User`` asks whether the certificate of its connection is believed now: it must not have
   expired, and the authorities must still be those by which it was verified. Else the headers count for nothing.

The API server decides what the user may see, by the groups and extra values that the proxy names.
"""

from __future__ import annotations

import ssl
import time
from asyncio import Transport
from collections.abc import Collection, Mapping
from typing import Any, Final
from urllib.parse import unquote

from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from enrich.runtime.renewed_certificate import RenewedCertificate, ServerContext
from enrich.runtime.token_gate import UNAUTHENTICATED, TokenGate
from enrich.sources.token_review import name_of_user, user_text
from streams.web.viewers import TokenViewer

ANY_NAME: Final = "*"
_CONNECTION: Final = "connection_of_request"
_USER: Final = b"x-remote-user"
_GROUP: Final = b"x-remote-group"
_EXTRA: Final = b"x-remote-extra-"
_MAX_VALUES: Final = 1000
"""Groups and extra values of a user."""
_ANONYMOUS: Final = "system:anonymous"
_AUTHENTICATED: Final = "system:authenticated"
_UNAUTHENTICATED: Final = "system:unauthenticated"


class HeaderError(ValueError):
    """The user headers of a proxy cannot be used. The message says why."""


class ProxyProtocol(H11Protocol):
    """Gives each request the TLS connection that it came by."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override] # as uvicorn's own has it
        """Note the connection."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, _CONNECTION: transport.get_extra_info("ssl_object")}


class FrontProxy:
    """Knows the proxy by its certificate, and who asks by its headers."""

    def __init__(self, certificate: RenewedCertificate, names: Collection[str], gate: TokenGate) -> None:
        """``certificate`` is that of the page, with the authorities of the proxy. ``names`` are the common names that a
        proxy may have, or ``*`` for any. ``gate`` takes what :func:`user_text` returns for a token."""
        self._certificate, self._names, self._gate = certificate, frozenset(names), gate

    def viewer(self, request: Request, cluster: str) -> ProxyViewer | None:
        """Return who asks by a proxy's headers; None if there are none, or if they are not a proxy's. Raises
        HeaderError."""
        if not says_user(request):
            return None
        connection = request.scope.get("state", {}).get(_CONNECTION)
        if not isinstance(connection, ssl.SSLObject) or not self.is_believed(connection):
            return None
        return ProxyViewer(self, connection, self._gate, user_of(request.headers.raw), cluster)

    def is_believed(self, connection: ssl.SSLObject) -> bool:
        """Return whether a connection is a proxy's, now."""
        certificate, context, newest = connection.getpeercert(), connection.context, self._certificate.context()
        if not certificate or not isinstance(context, ServerContext) or newest is None:
            return False
        if not context.authorities or context.authorities != newest.authorities:
            return False
        return is_valid_now(certificate) and _is_named(certificate, self._names)


class ProxyViewer(TokenViewer):
    """A user whom a proxy names, for as long as the proxy is believed."""

    def __init__(self, proxy: FrontProxy, connection: ssl.SSLObject, gate: TokenGate, user: str, cluster: str) -> None:
        super().__init__(gate, user, cluster, name_of_user)
        self._proxy, self._connection = proxy, connection

    def status(self) -> int | None:
        """Return ALLOWED while the proxy is believed; else why not, None while that is asked."""
        return super().status() if self._proxy.is_believed(self._connection) else UNAUTHENTICATED


def says_user(request: Request) -> bool:
    """Return whether a request has the header of a user, from whomever."""
    return any(name == _USER for name, _ in request.headers.raw)


def is_valid_now(certificate: Mapping[str, Any]) -> bool:
    """Return whether a certificate has begun and has not ended. It was so at the handshake, which may be days ago."""
    begins, ends = (ssl.cert_time_to_seconds(certificate[name]) for name in ("notBefore", "notAfter"))
    return begins <= time.time() <= ends


def _is_named(certificate: Mapping[str, Any], names: Collection[str]) -> bool:
    """Return whether a certificate has one common name, and an allowed one. With several, two readers could disagree
    about which one counts."""
    found = [value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"]
    return ANY_NAME in names or (len(found) == 1 and found[0] in names)


def user_of(headers: Collection[tuple[bytes, bytes]]) -> str:
    """Return the user that a proxy's headers name, as :func:`user_text` does. Raises HeaderError.

    Names are compared in lower case, as HTTP has them, and else exactly: ``X_Remote_User`` is another header. A comma
    is part of a value: a user named ``alice, admin`` is neither of them."""
    users = [value for name, value in headers if name.lower() == _USER]
    if len(users) != 1:
        # Whoever goes through the proxy may have sent one of them.
        raise HeaderError("the proxy must send X-Remote-User once")
    groups: list[str] = []
    extra: dict[str, list[str]] = {}
    for name, value in ((name.lower(), value) for name, value in headers):
        if name == _GROUP and value:
            groups.append(_text(value))
        elif name.startswith(_EXTRA):
            extra.setdefault(_key(name.removeprefix(_EXTRA)), []).append(_text(value))
    if len(groups) + sum(map(len, extra.values())) > _MAX_VALUES:
        raise HeaderError(f"the proxy names more than {_MAX_VALUES} groups and extra values")
    user = _text(users[0])
    if not user.strip():
        raise HeaderError("the proxy names no user in X-Remote-User")
    if user != _ANONYMOUS and not {_AUTHENTICATED, _UNAUTHENTICATED} & set(groups):
        groups.append(_AUTHENTICATED)  # as the API server does for whom a proxy has signed in
    return user_text(user, groups, extra)


def _key(name: bytes) -> str:
    """Return the key of an extra value, which may have any character, percent-encoded."""
    try:
        found = unquote(_text(name), errors="strict")
    except UnicodeDecodeError:
        raise HeaderError("the name of an X-Remote-Extra header is not UTF-8") from None
    if not found:
        raise HeaderError("an X-Remote-Extra header has no key")
    return found


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise HeaderError("a header of the user is not UTF-8") from None
