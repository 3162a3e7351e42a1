"""Talks to the API server through the official client. No other module imports ``kubernetes``, and this one only when
it connects: the import takes a third of a start and 16 MB, and many processes never ask an API server.

The client brings configuration and authentication. Its models are not used: a response is returned as bytes. The client
reads the service account's token from disk again every minute. Everything else that may be renewed on disk (the
certificate or the token file of a kubeconfig, the certificate authority) is read again when the server rejects the
credentials.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
import structlog
import urllib3
import yaml

from enrich.runtime.retry_after import retry_after_s
from enrich.sources.source import SourceError

log = structlog.get_logger("kubeweir.source")

_CONNECT_S: Final = 10.0
_MIN_RENEWAL_INTERVAL_S: Final = 5.0
"""The configuration is read once if the server rejects all watches at once."""
_CONNECTIONS: Final = 32
_KEEPALIVE: Final = [
    # Detects within a minute a server that disappeared silently; a watch itself never sends anything.
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]

Configure = Callable[[], Any]
"""A function that makes a ``kubernetes.client.ApiClient``. It raises :class:`SourceError`."""


class AnswerError(Exception):
    """The server answered with an error, or not at all. The message says what to do; ``status`` is 0 without an
    answer.

    ``answer`` is the object of the kind Status by which an API server says what is wrong. It is empty if there is none,
    for example because a proxy has answered. ``retry_after_s`` is how long the server asks its clients to wait."""

    def __init__(
        self, message: str, status: int = 0, retry_after_s: float = 0.0, answer: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after_s, self.answer = status, retry_after_s, answer or {}


class Client:
    """Sends requests, for any number of threads."""

    def __init__(self, configure: Configure | None = None, *, connect_s: float = _CONNECT_S) -> None:
        """``configure`` makes the client; None: from KUBECONFIG, ~/.kube/config or the service account, in this
        order. ``connect_s``: how long each of four attempts to connect for a GET may take."""
        self._configure, self._connect_s = configure or configured, connect_s
        self._client: Any = None
        self._lock = threading.Lock()
        self._configured_at = 0.0

    def connect(self) -> None:
        """Read the configuration. Raises :class:`SourceError`."""
        self._client = _with_own_retries(self._configure())
        self._configured_at = time.monotonic()

    @contextlib.contextmanager
    def get(self, path: str, query: Mapping[str, str], accept: str, silence_s: float) -> Iterator[Any]:
        """Send a GET and yield the urllib3 response of status 200, not read yet.

        ``silence_s``: how long the server may send nothing. Raises :class:`AnswerError`, and any exception of
        urllib3 and the socket.
        """
        client = self._client
        request = client.param_serialize(
            method="GET", resource_path=path, query_params=list(query.items()),
            header_params={"Accept": accept}, auth_settings=["BearerToken"],
        )  # fmt: skip
        try:
            response = client.call_api(*request, _request_timeout=(self._connect_s, silence_s)).response
        except _tls_error() as error:
            self._renew(client)
            raise AnswerError(f"the API server cannot be reached: {error.reason}") from error
        try:
            if response.status == 401:
                self._renew(client)
            if response.status != 200:
                wait_s = retry_after_s(response.headers)
                raise AnswerError(_advice(response.status, response.reason, path), response.status, wait_s)
            yield response
        finally:
            response.close()

    def post(self, path: str, body: Any) -> None:
        """Create an object. It is not an error if the object exists already.

        Raises :class:`AnswerError`, with status 0 if the server cannot be reached."""
        self._send("POST", path, body, "application/json", accepted=(200, 201, 409))

    def create(self, path: str, body: Any) -> bytes:
        """Create an object, and return it as the server answers it.

        Raises :class:`AnswerError`, with status 0 if the server cannot be reached."""
        return self._send("POST", path, body, "application/json", accepted=(200, 201))

    def patch(self, path: str, operations: list[dict[str, Any]]) -> None:
        """Change an object by a JSON patch (RFC 6902).

        Raises :class:`AnswerError`, with status 0 if the server cannot be reached."""
        self._send("PATCH", path, operations, "application/json-patch+json", accepted=(200,))

    def _send(self, method: str, path: str, body: Any, kind: str, *, accepted: tuple[int, ...]) -> bytes:
        client = self._client
        request = client.param_serialize(
            method=method, resource_path=path, body=body, auth_settings=["BearerToken"],
            header_params={"Accept": "application/json", "Content-Type": kind},
        )  # fmt: skip
        try:
            response = client.call_api(*request, _request_timeout=(_CONNECT_S, _CONNECT_S)).response
            status, content = response.status, bytes(response.read() or b"")
        except (_tls_error(), urllib3.exceptions.HTTPError, OSError) as error:
            self._renew(client)
            raise AnswerError(f"the API server cannot be reached: {error}") from error
        response.close()
        if status == 401:
            self._renew(client)
        if status not in accepted:
            text = content[:300].decode(errors="replace")
            raise AnswerError(
                f"{path}: the API server answered {status}: {text}",
                status,
                retry_after_s(response.headers or {}),
                _status_object(content),
            )
        return content

    def _renew(self, rejected: Any) -> None:
        """Read the configuration again: rejected credentials may have been renewed on disk."""
        with self._lock:
            if self._client is not rejected or time.monotonic() - self._configured_at < _MIN_RENEWAL_INTERVAL_S:
                return
            self._configured_at = time.monotonic()
            try:
                self._client = _with_own_retries(self._configure())
            except SourceError as error:
                log.error("the configuration cannot be read again", error=str(error))


def configured() -> Any:
    """Make a client from KUBECONFIG, ~/.kube/config or the pod's service account, in this order."""
    import kubernetes  # noqa: PLC0415 - see above

    configuration = kubernetes.client.Configuration(socket_options=_KEEPALIVE, connection_pool_maxsize=_CONNECTIONS)
    named, usual = os.environ.get("KUBECONFIG"), Path.home() / ".kube/config"
    try:
        if named or usual.exists():
            kubernetes.config.load_kube_config(named or str(usual), client_configuration=configuration)
        else:
            kubernetes.config.load_incluster_config(client_configuration=configuration)
    except (kubernetes.config.ConfigException, OSError, ValueError, yaml.YAMLError) as error:
        # Some errors of the client are sentences with a full stop.
        why = str(error).removesuffix(".")
        raise SourceError(
            f"no Kubernetes configuration: {why}. Set KUBECONFIG, or run in a pod with a service account"
        ) from error
    return kubernetes.client.ApiClient(configuration)


def _tls_error() -> Any:
    """Return what the official client raises if TLS fails."""
    import kubernetes  # noqa: PLC0415 - see above

    return kubernetes.client.ApiException


def _with_own_retries(client: Any) -> Any:
    """Have urllib3 return an answer with ``Retry-After`` at once.

    It would sleep for as long as the server says, where nothing can stop it and no backoff counts it."""
    retries = urllib3.Retry(3, respect_retry_after_header=False)
    client.rest_client.pool_manager.connection_pool_kw["retries"] = retries
    return client


def _status_object(content: bytes) -> Mapping[str, Any]:
    """Return the object of the kind Status in an answer, empty if it is something else."""
    try:
        found = orjson.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and found.get("kind") == "Status" else {}


def _advice(status: int, reason: str, path: str) -> str:
    match status:
        case 401:
            return f"{path}: the API server rejects the credentials (401): renew the token or the certificate"
        case 403:
            return f"{path}: not permitted (403): the account needs get, list and watch there, see the project's RBAC"
        case _:
            return f"{path}: the API server answered {status} {reason}"
