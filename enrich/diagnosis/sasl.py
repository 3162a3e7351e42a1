"""Authenticates a user at a broker, and tells by the step that fails whether the user or the password is wrong.

Tokens are asked for by :func:`with_token` before."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping

from enrich.diagnosis.protocol import NO_ERROR, Channel
from enrich.runtime.oauth import MECHANISM
from enrich.runtime.token_endpoint import fetch_token

_UNSUPPORTED_MECHANISM, _ILLEGAL_STATE = 33, 34
_MAX_ITERATIONS = 1 << 20
_MAX_SHOWN = 200
_ANSWER_S = 3.0
_TOKEN = "token"  # noqa: S105 - the name of one
"""Key of a token beside librdkafka's settings, none of which is called so."""


def with_token(connection: Mapping[str, str]) -> Mapping[str, str]:
    """Return the settings with a token, if they are for OAUTHBEARER, so that all brokers get the same.

    Raises :class:`enrich.runtime.token_endpoint.TokenError`."""
    if connection.get("sasl.mechanism") != MECHANISM:
        return connection
    return {**connection, _TOKEN: fetch_token(connection, _ANSWER_S).value}


def authenticate(channel: Channel, connection: Mapping[str, str], where: str) -> str | None:
    """Authenticate the user of librdkafka's settings; return why the broker refuses, None if it does not."""
    mechanism = connection["sasl.mechanism"]
    error, offered = channel.sasl_handshake(mechanism)
    if error == _ILLEGAL_STATE:
        return (
            f"the listener {where} authenticates no users, but WEIR_KAFKA_PROTOCOL={connection['security.protocol']} "
            f"does: set {connection['security.protocol'].removeprefix('sasl_')}, or the address of a listener with SASL"
        )
    if error == _UNSUPPORTED_MECHANISM:
        return (
            f"the broker {where} does not take WEIR_KAFKA_MECHANISM={mechanism}: set one that it has, "
            f"which are {', '.join(offered)}"
        )
    if error != NO_ERROR:
        return f"the broker {where} refuses the mechanism {mechanism} with error {error} of Kafka"
    if mechanism == MECHANISM:
        return _oauthbearer(channel, connection, where)
    user, password = connection.get("sasl.username", ""), connection.get("sasl.password", "")
    if mechanism == "PLAIN":
        error, text, _ = channel.sasl_authenticate(f"\0{user}\0{password}".encode())
        if error != NO_ERROR:
            return (
                f"the broker {where} refuses the user {user!r} or its password ({text}): correct WEIR_KAFKA_USERNAME "
                "and WEIR_KAFKA_PASSWORD; with PLAIN, a broker does not say which is wrong"
            )
        return None
    return _scram(channel, mechanism, user, password, where)


def _oauthbearer(channel: Channel, connection: Mapping[str, str], where: str) -> str | None:
    """Authenticate by a token (RFC 7628); a broker that refuses it answers with a status, and no error yet."""
    extensions = filter(None, connection.get("sasl.oauthbearer.extensions", "").split(","))
    message = "\x01".join(("n,,", f"auth=Bearer {connection[_TOKEN]}", *extensions, "", ""))
    error, text, answer = channel.sasl_authenticate(message.encode())
    if error == NO_ERROR and not answer:
        return None
    said = (text or answer.decode(errors="replace")).replace(connection[_TOKEN], "…")[:_MAX_SHOWN]
    client = connection["sasl.oauthbearer.client.id"]
    return (
        f"the broker {where} refuses the token of the client {client!r} ({said}): let it trust the endpoint of "
        "WEIR_KAFKA_OAUTH_URL (issuer, audience, keys; see the broker's log), or correct WEIR_KAFKA_OAUTH_SCOPE and "
        "WEIR_KAFKA_OAUTH_EXTENSIONS"
    )


def _scram(channel: Channel, mechanism: str, user: str, password: str, where: str) -> str | None:
    """Authenticate by SCRAM (RFC 5802), which a broker refuses in one step for a user, in the next for a password."""
    digest = mechanism.removeprefix("SCRAM-").replace("-", "").lower()
    nonce = secrets.token_hex(16)
    first = f"n={user.replace('=', '=3D').replace(',', '=2C')},r={nonce}"
    error, text, answer = channel.sasl_authenticate(f"n,,{first}".encode())
    if error != NO_ERROR:
        return (
            f"the broker {where} has no user {user!r} for {mechanism} ({text}): correct WEIR_KAFKA_USERNAME, or create "
            "the user (kafka-configs --alter --entity-type users)"
        )
    fields = dict(part.partition("=")[::2] for part in answer.decode(errors="replace").split(","))
    try:
        salt, iterations = base64.b64decode(fields["s"], validate=True), int(fields["i"])
    except (KeyError, ValueError):
        return f"the broker {where} does not follow SCRAM"
    if not fields.get("r", "").startswith(nonce) or not 0 < iterations <= _MAX_ITERATIONS:
        return f"the broker {where} does not follow SCRAM"
    salted = hashlib.pbkdf2_hmac(digest, password.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", digest)
    without_proof = f"c=biws,r={fields['r']}"
    signed = f"{first},{answer.decode()},{without_proof}".encode()
    signature = hmac.digest(hashlib.new(digest, client_key).digest(), signed, digest)
    proof = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
    error, text, _ = channel.sasl_authenticate(f"{without_proof},p={base64.b64encode(proof).decode()}".encode())
    if error != NO_ERROR:
        return (
            f"the password of the user {user!r} is wrong, says the broker {where} ({text}): correct WEIR_KAFKA_PASSWORD"
        )
    return None
