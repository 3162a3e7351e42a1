"""The readiness of all roles on one page: a container has one readiness probe, however many roles run in it."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry

from enrich.runtime.health import Check, HealthServer
from enrich.runtime.secure_port import Guard

_TIMEOUT_S: Final = 4.0
"""The kubelet gives up after 5 s. On a slow machine, a role may need seconds; so all are asked side by side."""


def _unverified() -> ssl.SSLContext:
    """Return a context that takes any certificate: the roles are on this machine, and the port's name is not theirs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


_DIRECTLY: Final = urllib.request.build_opener(
    urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_unverified())
)
"""Asks without a proxy, for the same reason."""


@contextlib.contextmanager
def role_page(address: str, ports: Mapping[str, int], guard: Guard | None = None) -> Iterator[None]:
    """Serve /readyz of the roles with these ports, together, on ``address`` (host:port), with the ``guard`` of theirs.

    Raises StopServiceError if the port is taken."""
    host = address.rpartition(":")[0].strip("[]")
    near = "127.0.0.1" if host in ("", "0.0.0.0") else "::1" if host == "::" else host  # noqa: S104 - not bound here
    scheme = "https" if guard else "http"
    urls = {role: f"{scheme}://{f'[{near}]' if ':' in near else near}:{port}/readyz" for role, port in ports.items()}
    checks: dict[str, Check] = {role: partial(_problem, url) for role, url in urls.items()}
    with ThreadPoolExecutor(len(urls), "role-page") as pool:
        health = HealthServer(address, CollectorRegistry(), checks, guard=guard, pool=pool)
        try:
            yield
        finally:
            health.close()


def _problem(url: str) -> str | None:
    """Return what the page of a role says is wrong, None if the role is ready."""
    try:
        with _DIRECTLY.open(url, timeout=_TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return "; ".join(error.read().decode(errors="replace").splitlines())
    except (OSError, http.client.HTTPException) as error:
        return f"the role does not answer: it starts, or has ended ({getattr(error, 'reason', error)})"
