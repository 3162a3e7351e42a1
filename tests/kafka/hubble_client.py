"""Asks Hubble's API by the messages of the server itself, for what the `hubble` command does not ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from streams.hubble.messages import message


class HubbleClient:
    """A client of one server."""

    def __init__(self, port: int, credentials: Any = None) -> None:
        target = f"localhost:{port}"
        self._channel = (
            grpc.insecure_channel(target) if credentials is None else grpc.secure_channel(target, credentials)
        )

    def flows(self, timeout_s: float = 60.0, **fields: Any) -> Iterator[Any]:
        """Ask for flows, and yield the answers."""
        request = message("GetFlowsRequest")(**fields)
        call = self._channel.unary_stream(
            "/observer.Observer/GetFlows",
            request_serializer=message("GetFlowsRequest").SerializeToString,
            response_deserializer=message("GetFlowsResponse").FromString,
        )
        found: Iterator[Any] = call(request, timeout=timeout_s, wait_for_ready=True)
        return found

    def ask(self, method: str, timeout_s: float = 120.0, **fields: Any) -> Any:
        """Call another method."""
        call = self._channel.unary_unary(
            f"/observer.Observer/{method}",
            request_serializer=message(f"{method}Request").SerializeToString,
            response_deserializer=message(f"{method}Response").FromString,
        )
        return call(message(f"{method}Request")(**fields), timeout=timeout_s, wait_for_ready=True)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()
