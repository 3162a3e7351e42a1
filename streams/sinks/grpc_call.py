"""Sends requests by gRPC, and decides from the status whether to retry, as :mod:`.http` does. Imports grpc.

A status alone does not say whose fault an error is: only what speaks about the content is taken as a refusal. OTLP has
further final statuses (https://opentelemetry.io/docs/specs/otlp/#failures), such as UNAUTHENTICATED; the records are
good then, an operator can remove the cause, and the sink retries. gRPC itself retries nothing.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from enrich.runtime.process import StopServiceError
from streams.config.url_text import shown, user_of
from streams.sinks.http import Headers
from streams.sinks.http_session import redacted
from streams.sinks.sink import RefusedError, SinkError

_TOO_LARGE: Final = re.compile(r"[Rr]eceived message (after decompression )?larger than max")
"""What servers of Go, C++ and Python say of a request beyond their limit, with the status of a busy server."""
_OWN: Final = "CLIENT:"
"""How such a text begins if the answer was too large, not the request."""
_MAX_SHOWN: Final = 200
_DETAILS: Final = "grpc-status-details-bin"
_OPTIONS: Final = [
    ("grpc.enable_retries", 0),
    # By default two minutes between attempts to connect, while the sink's own are closer together.
    ("grpc.max_reconnect_backoff_ms", 10_000),
]


class GrpcCall:
    """Calls one method of one server. A new connection is made when the files of credentials have changed."""

    def __init__(
        self,
        url: str,
        method: str,
        headers: Headers,
        timeout_s: float,
        ca: str | None = None,
        certificate: tuple[str, str] | None = None,
    ) -> None:
        """``url`` is https://host:port, or http:// without TLS. ``ca`` and ``certificate`` are PEM files."""
        self._url, self._method, self._headers, self._timeout_s = url, method, headers, timeout_s
        self._files = (ca, *(certificate or (None, None)))
        self._sent: Mapping[str, str] = {}
        """The headers of the last request, which a server may quote."""
        self._contents: tuple[bytes | None, ...] = ()
        self._channel: Any = None
        self.shown = shown(url)
        """What texts may hold of the address: scheme, host and port."""

    def post_bytes(self, body: bytes) -> bytes:
        """Return the answer when the server has accepted the body. Raises SinkError, RefusedError."""
        try:
            self._sent = self._headers() if callable(self._headers) else self._headers
            self._connect()
            # The user of the address is preferred to a header, as by HTTP.
            metadata = list(({name.lower(): value for name, value in self._sent.items()} | self._user()).items())
            call = self._channel.unary_unary(self._method)
            return bytes(call(body, timeout=self._timeout_s, metadata=metadata, compression=grpc.Compression.Gzip))
        except StopServiceError as error:
            raise SinkError(str(error)) from error
        except grpc.RpcError as error:
            raise self._error(error) from None
        except OSError as error:
            raise SinkError(f"{self.shown}: {error}") from error

    def redacted(self, text: str) -> str:
        """Return a server's text without what is secret of the address and of the headers."""
        return redacted(text, self._url, self._sent)

    def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            self._channel.close()
        self._channel, self._contents = None, ()

    def _connect(self) -> None:
        contents = tuple(Path(path).read_bytes() if path else None for path in self._files)
        if self._channel is not None and contents == self._contents:
            return
        if b"" in contents:
            # gRPC would take its own authorities for an empty file.
            raise SinkError(f"{self.shown}: {self._files[contents.index(b'')]} is empty")
        self.close()
        parts = urlsplit(self._url)
        is_encrypted = parts.scheme == "https"
        target = parts.netloc.rpartition("@")[2] + ("" if parts.port else ":443" if is_encrypted else ":80")
        # A proxy sees everything that is not encrypted.
        options = [*_OPTIONS, ("grpc.enable_http_proxy", int(is_encrypted))]
        if is_encrypted:
            authority, certificate, key = contents
            credentials = grpc.ssl_channel_credentials(authority, key, certificate)
            self._channel = grpc.secure_channel(target, credentials, options)
        else:
            self._channel = grpc.insecure_channel(target, options)
        self._contents = contents

    def _user(self) -> dict[str, str]:
        """Return the header for the user of the address, if it has one."""
        user = user_of(self._url)
        return {} if user is None else {"authorization": f"Basic {base64.b64encode(':'.join(user).encode()).decode()}"}

    def _error(self, error: Any) -> SinkError | RefusedError:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            # The connection may lead nowhere; gRPC would keep it.
            self.close()
        message = f"{self.shown}: {code.name}: {self.redacted(details)[:_MAX_SHOWN]}"
        is_too_large = _TOO_LARGE.search(details) is not None and not details.startswith(_OWN)
        if code is grpc.StatusCode.INVALID_ARGUMENT or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and is_too_large):
            return RefusedError(message)
        return SinkError(message, retry_after_s=_retry_after_s(error.trailing_metadata() or ()))


def _retry_after_s(metadata: Any) -> float:
    """Return the seconds that a server asks to be left alone (google.rpc.RetryInfo); 0 if it does not."""
    for name, value in metadata:
        if name != _DETAILS or not isinstance(value, bytes):
            continue
        try:
            for one in Status.FromString(value).details:
                info = RetryInfo()
                if one.Unpack(info):
                    return max(0.0, float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9))
        except DecodeError:
            return 0.0
    return 0.0
