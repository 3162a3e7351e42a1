"""OAuth's settings of the connection to Kafka, as configuration of librdkafka, which asks for its tokens itself.

The others that need a token ask by :mod:`enrich.runtime.token_endpoint`, which takes the same configuration.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from enrich.runtime.settings import SettingsError

MECHANISM: Final = "OAUTHBEARER"
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_SCOPE: Final = re.compile(r"[!#$'-*,-\[\]-~ ]*")
"""Characters of a scope (RFC 6749, 3.3), without ``%``, ``&`` and ``+``: librdkafka puts it into a form as it is."""
_NAME: Final = re.compile(r"[A-Za-z]+")
_VALUE: Final = re.compile(r"[\x20-\x7e\t\r\n]+")
"""Names and values of extensions (RFC 7628, 3.1)."""


def configuration(
    url: str, client_id: str, secret: str, scope: str, extensions: Sequence[str], authority: Path | None
) -> dict[str, str]:
    """Return librdkafka's settings. Raises :class:`SettingsError` for what is missing or cannot be used."""
    _check_url(url)
    if not (client_id and secret):
        raise SettingsError(
            f"WEIR_KAFKA_MECHANISM={MECHANISM} needs WEIR_KAFKA_OAUTH_CLIENT_ID, or a file in "
            "WEIR_KAFKA_OAUTH_CLIENT_ID_FILE that holds it, and a file in WEIR_KAFKA_OAUTH_CLIENT_SECRET_FILE that "
            "holds the secret"
        )
    if ":" in client_id or not (client_id + secret).isprintable():
        raise SettingsError("WEIR_KAFKA_OAUTH_CLIENT_ID must have no colon, and neither it nor the secret line breaks")
    if not _SCOPE.fullmatch(scope):
        raise SettingsError(f"WEIR_KAFKA_OAUTH_SCOPE={scope!r}: must be scopes between spaces, without %, & and +")
    for text in extensions:
        name, _, value = text.partition("=")
        if name == "auth" or not (_NAME.fullmatch(name) and _VALUE.fullmatch(value)):
            raise SettingsError(f"WEIR_KAFKA_OAUTH_EXTENSIONS: {text!r} must be name=value, its name of letters only")
    found = {
        "sasl.mechanism": MECHANISM,
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": url,
        "sasl.oauthbearer.client.id": client_id,
        "sasl.oauthbearer.client.secret": secret,
    }
    optional = {
        "sasl.oauthbearer.scope": scope,
        "sasl.oauthbearer.extensions": ",".join(extensions),
        "https.ca.location": str(authority) if authority else "",
    }
    return found | {name: value for name, value in optional.items() if value}


def _check_url(url: str) -> None:
    """Raise SettingsError if the endpoint is missing, or would get the secret where others can read it."""
    if not url:
        raise SettingsError(f"WEIR_KAFKA_MECHANISM={MECHANISM} needs WEIR_KAFKA_OAUTH_URL, that of the token endpoint")
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or " " in url:
        # The URL is not quoted: it may hold a password.
        raise SettingsError("WEIR_KAFKA_OAUTH_URL must be a URL, such as https://login.example.com/oauth2/token")
    if parts.username is not None:
        raise SettingsError("WEIR_KAFKA_OAUTH_URL must name no user: set WEIR_KAFKA_OAUTH_CLIENT_ID instead")
    if parts.scheme == "https":
        return
    if parts.hostname not in _LOCAL:
        raise SettingsError(
            f"WEIR_KAFKA_OAUTH_URL=http://{parts.hostname}: the client's secret would go over the network unencrypted: "
            "use https://; http:// is for an endpoint on this machine only"
        )
    if "http" in getproxies() and not proxy_bypass(parts.hostname):
        raise SettingsError(
            f"WEIR_KAFKA_OAUTH_URL=http://{parts.hostname}: the client's secret would go to the proxy in http_proxy "
            f"unencrypted: add {parts.hostname} to no_proxy"
        )


def _split(url: str) -> SplitResult | None:
    """Return the parts of a URL; None if it cannot be split, or its port is not one."""
    try:
        parts = urlsplit(url)
        is_usable = parts.port != 0
    except ValueError:
        return None
    return parts if is_usable else None
