"""The readiness of all roles on one page: a container has one readiness probe, however many roles run in it."""

from __future__ import annotations

import contextlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry

from enrich.runtime.health import HealthServer

_TIMEOUT_S: Final = 2.0
_DIRECTLY: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks without a proxy: the roles are on this machine."""


@contextlib.contextmanager
def role_page(address: str, ports: Mapping[str, int]) -> Iterator[None]:
    """Serve /readyz of the roles with these ports, together, on ``address`` (host:port).

    Raises StopServiceError if the port is taken."""
    host = address.rpartition(":")[0].strip("[]")
    near = "127.0.0.1" if host in ("", "0.0.0.0") else "::1" if host == "::" else host  # noqa: S104 - not bound here
    urls = {role: f"http://{f'[{near}]' if ':' in near else near}:{port}/readyz" for role, port in ports.items()}
    health = HealthServer(address, CollectorRegistry(), {role: partial(_problem, url) for role, url in urls.items()})
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
