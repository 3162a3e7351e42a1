"""Read the pages of a service's health port."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request


def page_of(port: int, path: str = "/readyz", timeout_s: float = 60) -> tuple[int, str]:
    """Return status and text of a page. Raises OSError if there is no answer in time, or only a part of one."""
    try:
        return _answer(port, path, timeout_s)
    except http.client.HTTPException as error:
        raise OSError(f"the answer is not complete: {error!r}") from error


def _answer(port: int, path: str, timeout_s: float) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=timeout_s) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
