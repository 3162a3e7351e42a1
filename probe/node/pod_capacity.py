"""Asks the API server how many pods this node can have."""

from __future__ import annotations

import queue
import re
import threading
from decimal import Decimal
from typing import Any, Final

import orjson
import structlog
import urllib3

from enrich.sources.client import AnswerError, Client

log = structlog.get_logger("kubeweir.probe")

_OTHER_SHAPE: Final = (ValueError, LookupError, TypeError, AttributeError)
"""The errors that reading an answer raises if it is not a list of nodes."""

_WAIT_S: Final = 2.0
"""How long enforcement waits for the answer at a start."""
_QUANTITY: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?(?:[eE][0-9])?)(|k|M|Ki|Mi)", re.ASCII)
_FACTORS: Final = {"": 1, "k": 1000, "M": 1000**2, "Ki": 1024, "Mi": 1024**2}


def pod_capacity(client: Client, node: str, wait_s: float = _WAIT_S) -> int | None:
    """Return the number of pods that the node can have; None if the API server does not say so soon."""
    found: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found.put(_listed(client, node, wait_s))
        except (AnswerError, urllib3.exceptions.HTTPError, OSError, *_OTHER_SHAPE) as error:
            log.debug("the node's pod capacity is not known", node=node, error=str(error))
            found.put(None)

    # To connect to a server that does not answer may take longer than wait_s.
    threading.Thread(target=ask, name="capacity", daemon=True).start()
    try:
        return found.get(timeout=wait_s)
    except queue.Empty:
        return None


def _listed(client: Client, node: str, wait_s: float) -> int | None:
    query = {"fieldSelector": f"metadata.name={node}"}
    with client.get("/api/v1/nodes", query, "application/json", wait_s) as response:
        listed: dict[str, Any] = orjson.loads(response.read())
    status = listed["items"][0]["status"]
    capacity = (status.get("allocatable") or {}).get("pods") or (status.get("capacity") or {}).get("pods")
    return None if capacity is None else _number(str(capacity))


def _number(quantity: str) -> int:
    """Return the number that a quantity stands for: the API server writes 1000 pods as ``1k``. Raises ValueError."""
    found = _QUANTITY.fullmatch(quantity)
    if not found:
        raise ValueError(f"{quantity!r} is not a number of pods")
    return int(Decimal(found[1]) * _FACTORS[found[2]])
