"""Asks an OAuth endpoint for a token by client credentials (RFC 6749, 4.4), in the form in which librdkafka asks.

A token is taken only if librdkafka would take it: a JSON Web Token that says when it expires and whose it is.
"""

from __future__ import annotations

import base64
import http.client
import json
import math
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlsplit

from enrich.runtime.certificates import FOR_ANOTHER_NAME, NOT_VALID_NOW

_MAX_ANSWER_BYTES: Final = 1 << 20
_MAX_LIFETIME_S: Final = 86_400.0
_MAX_SHOWN: Final = 200
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")
"""Characters of a bearer token (RFC 6750, 2.1)."""
_REFUSALS: Final = {
    "invalid_client": "correct WEIR_KAFKA_OAUTH_CLIENT_ID, or the secret in the file of "
    "WEIR_KAFKA_OAUTH_CLIENT_SECRET_FILE",
    "invalid_scope": "correct WEIR_KAFKA_OAUTH_SCOPE",
    "unauthorized_client": "let the client use the grant client_credentials",
    "unsupported_grant_type": "let the client use the grant client_credentials, or correct WEIR_KAFKA_OAUTH_URL",
}
"""What to do, by the endpoint's error (RFC 6749, 5.2)."""


class TokenError(Exception):
    """There is no token. The message says what happened, at which endpoint, and what to do; it holds no secret."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and for how many seconds from now it can be used."""

    value: str = field(repr=False)
    lifetime_s: float


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirect as an error: only the settings decide where the secret goes."""

    def redirect_request(self, *_: Any) -> None:
        return None


def fetch_token(connection: Mapping[str, str], timeout_s: float) -> Token:
    """Return a token for librdkafka's settings ``connection``. Raises TokenError.

    ``timeout_s`` bounds each wait for the endpoint, so that a slow one may take several times as long."""
    url = connection["sasl.oauthbearer.token.endpoint.url"]
    where = f"the token endpoint {urlsplit(url).scheme}://{urlsplit(url).netloc}"
    authority = connection.get("https.ca.location")
    try:
        context = ssl.create_default_context(cafile=authority)
    except (OSError, ValueError) as error:
        raise TokenError(f"WEIR_KAFKA_OAUTH_CA={authority} cannot be read as PEM: {error}") from error
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(_request(connection, url), timeout=timeout_s) as answer:
            body = answer.read(_MAX_ANSWER_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            raise TokenError(_refusal(connection, where, error)) from None
    except urllib.error.URLError as error:
        raise TokenError(_unreachable(where, error.reason, authority)) from error
    except (OSError, http.client.HTTPException) as error:
        raise TokenError(_unreachable(where, error, authority)) from error
    return _token(where, body)


def _request(connection: Mapping[str, str], url: str) -> urllib.request.Request:
    user = f"{connection['sasl.oauthbearer.client.id']}:{connection['sasl.oauthbearer.client.secret']}"
    scope = connection.get("sasl.oauthbearer.scope")
    form = "grant_type=client_credentials" + (f"&scope={quote(scope)}" if scope else "")
    headers = {
        "Authorization": f"Basic {base64.b64encode(user.encode()).decode()}",
        "Content-Type": "application/x-www-form-urlencoded",
        "Accept": "application/json",
    }
    return urllib.request.Request(url, form.encode(), headers)  # noqa: S310 - the settings allow http and https only


def _refusal(connection: Mapping[str, str], where: str, error: urllib.error.HTTPError) -> str:
    """Say why an endpoint has answered with an error."""
    try:
        answer = json.loads(error.read(_MAX_ANSWER_BYTES))
    except (OSError, ValueError, RecursionError, http.client.HTTPException):
        answer = None
    said = answer if isinstance(answer, dict) else {}
    code = str(said.get("error", ""))
    parts = filter(None, (str(error.code), code, str(said.get("error_description", ""))))
    reason = _shown(": ".join(parts), connection)
    if code not in _REFUSALS and error.code == 401:
        code = "invalid_client"
    if code in _REFUSALS:
        client = connection["sasl.oauthbearer.client.id"]
        return f"{where} refuses the client {client!r} ({reason}): {_REFUSALS[code]}"
    return f"{where} gives no token ({reason}): correct WEIR_KAFKA_OAUTH_URL, or mend the endpoint"


def _shown(text: str, connection: Mapping[str, str]) -> str:
    """Return an endpoint's text without the secret, which it may quote, and without what moves a terminal's cursor."""
    secret = connection["sasl.oauthbearer.client.secret"]
    text = text.replace(secret, "…")[:_MAX_SHOWN]
    return "".join(one if one.isprintable() else " " for one in text)


def _unreachable(where: str, error: object, authority: str | None) -> str:
    if isinstance(error, socket.gaierror):
        return f"the host name of {where} cannot be resolved: correct WEIR_KAFKA_OAUTH_URL, or the name service"
    if isinstance(error, TimeoutError):
        return f"{where} does not answer: does it run, and does no firewall or NetworkPolicy drop the packets?"
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in FOR_ANOTHER_NAME:
        return (
            f"the certificate of {where} is for another name ({error.verify_message}): use a name in "
            "WEIR_KAFKA_OAUTH_URL that it is for"
        )
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in NOT_VALID_NOW:
        return (
            f"the certificate of {where} is not valid now ({error.verify_message}): renew the endpoint's certificate, "
            "and compare the clocks"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        trusted = f"WEIR_KAFKA_OAUTH_CA={authority}" if authority else "the system's authorities"
        return (
            f"the certificate of {where} is not trusted by {trusted} ({error.verify_message}): set WEIR_KAFKA_OAUTH_CA "
            "to the PEM file of the authority that signs it"
        )
    if isinstance(error, ssl.SSLError):
        return f"{where} does not speak TLS as expected ({error.reason}): correct WEIR_KAFKA_OAUTH_URL"
    if isinstance(error, OSError):
        return f"{where} takes no connection ({error.strerror or error}): correct WEIR_KAFKA_OAUTH_URL, or start it"
    return f"{where} does not speak HTTP ({type(error).__name__}): correct WEIR_KAFKA_OAUTH_URL"


def _token(where: str, body: bytes) -> Token:
    try:
        answer = json.loads(body)
        value = answer["access_token"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TokenError(f"{where} answers without an access_token: correct WEIR_KAFKA_OAUTH_URL") from None
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise TokenError(f"{where} answers with an access_token that is not one: correct WEIR_KAFKA_OAUTH_URL")
    expires_at = _expiry(where, value)
    lifetime = expires_at - time.time()
    if lifetime <= 0:
        raise TokenError(
            f"{where} gives a token that has expired {-lifetime:.0f} s ago by this machine's clock: compare the clocks"
        )
    return Token(value, min(lifetime, _MAX_LIFETIME_S))


def _expiry(where: str, value: str) -> float:
    """Return the Unix time at which a token expires, which librdkafka takes from the token, too."""
    try:
        payload = value.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        expires_at, subject = float(claims["exp"]), claims["sub"]
    except (IndexError, ValueError, KeyError, TypeError, RecursionError):
        expires_at, subject = 0.0, None
    if not isinstance(subject, str) or not subject or not math.isfinite(expires_at):
        raise TokenError(
            f"{where} gives a token that is not a JSON Web Token with the claims exp and sub, which librdkafka needs: "
            "change the tokens that it gives to this client"
        )
    return expires_at
