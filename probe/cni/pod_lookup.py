"""Asks the API server for one pod, if the watch does not have it."""

from __future__ import annotations

from typing import Final

import orjson
import urllib3

from enrich.model import Name, Pod
from enrich.parse.objects import InvalidObjectError, parse
from enrich.sources.client import AnswerError, Client

_TIMEOUT_S: Final = 3.0


class PodLookup:
    """Requests single pods, for any number of threads."""

    def __init__(self, client: Client) -> None:
        """``client`` is connected."""
        self._client = client

    def __call__(self, name: Name) -> Pod | None:
        """Return a pod, None if the API server has none of this name. Raises OSError if it does not answer."""
        path = f"/api/v1/namespaces/{name.namespace}/pods/{name.name}"
        try:
            with self._client.get(path, {}, "application/json", _TIMEOUT_S) as response:
                found = parse(orjson.loads(response.read()), [])
        except AnswerError as error:
            if error.status == 404:
                return None
            raise OSError(str(error)) from error
        except (urllib3.exceptions.HTTPError, orjson.JSONDecodeError, InvalidObjectError) as error:
            raise OSError(f"{path}: {error}") from error
        return found if isinstance(found, Pod) else None
