"""Hides the secrets of addresses from texts.

A text may hold no more of an address than scheme, host and port: the path of a webhook is its password, and so are user
and query. Only a message about the path of an address that a file gives in clear text quotes that path, too.
"""

from __future__ import annotations

from urllib.parse import unquote, urlsplit, urlunsplit


def shown(url: str) -> str:
    """Return what may be shown of an address: scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def without_secrets(url: str) -> str:
    """Return an address without user, password, query and fragment, for messages about its path."""
    return f"{shown(url)}{urlsplit(url).path}"


def without_user(url: str) -> str:
    """Return an address without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def user_of(url: str) -> tuple[str, str] | None:
    """Return the user and the password of an address; None if it has no user."""
    parts = urlsplit(url)
    return None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
