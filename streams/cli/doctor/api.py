"""Asks the Kubernetes API: whether it answers, its clock, and what this account may read there."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import orjson

from enrich.sources.source import SourceError
from streams.cli.doctor.finding import Finding, ok, problem, warning
from streams.cli.doctor.reports import SKEW_S

_ANSWER_S: Final = 5.0
"""For connecting, and for an answer. The client tries four times, which is less than the time for all questions."""
_ABOUT: Final = "Kubernetes"


def api(source: str) -> Iterator[Finding]:
    """Look at the API server of the kubeconfig or the service account. ``source``: WEIR_SOURCE."""
    if source != "kubernetes":
        yield ok(_ABOUT, f"not asked, because WEIR_SOURCE={source}")
        return
    import urllib3  # noqa: PLC0415 - only a process that asks an API server imports its client

    from enrich.sources.client import AnswerError, Client  # noqa: PLC0415 - as above

    client = Client(connect_s=_ANSWER_S)
    try:
        client.connect()
    except SourceError as error:
        yield warning(_ABOUT, f"{error}. Without it only weir explain of today's policies has no answer")
        return
    try:
        before = time.time()
        with client.get("/version", {}, "application/json", _ANSWER_S) as response:
            version, date = orjson.loads(response.read()), response.headers.get("Date", "")
    except AnswerError as error:
        yield problem(_ABOUT, str(error))
        return
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        yield problem(_ABOUT, f"the API server does not answer: {error}. Is KUBECONFIG the one of this cluster?")
        return
    found = version.get("gitVersion", "") if isinstance(version, dict) else ""
    yield ok(_ABOUT, f"the API server answers, version {found or 'unknown'}")
    yield from clock_of(date, before, time.time())
    yield from _rights(client)


def clock_of(date: str, before_s: float, after_s: float) -> Iterator[Finding]:
    """Compare this machine's clock with the Date header of an answer that was received between two times."""
    with suppress(TypeError, ValueError, IndexError):
        theirs = email.utils.parsedate_to_datetime(date).timestamp()
        # The header leaves out the fraction of a second, and was written at some time between the two.
        ahead_s = max(before_s - (theirs + 1.0), 0.0) - max(theirs - after_s, 0.0)
        if abs(ahead_s) > SKEW_S:
            how = "ahead of" if ahead_s > 0 else "behind"
            yield problem(
                "clock", f"this machine's clock is {abs(ahead_s):.0f} s {how} the API server's: set it by NTP"
            )
        else:
            yield ok("clock", "this machine's clock agrees with the API server's")


def _rights(client: Any) -> Iterator[Finding]:
    from enrich.index.cluster import POLICY_KINDS  # noqa: PLC0415 - it takes a third of a second
    from enrich.sources.client import AnswerError  # noqa: PLC0415 - as above
    from enrich.sources.resources import RESOURCES  # noqa: PLC0415 - as above

    readable = []
    for one in RESOURCES:
        plural = one.path.rpartition("/")[2]
        try:
            with client.get(one.path, {"limit": "1"}, "application/json", _ANSWER_S) as response:
                response.read()
        except AnswerError as error:
            if error.status == 404 and one.definition:
                yield ok(_ABOUT, f"the cluster has no {plural}")
            elif error.status == 403:
                needed = one.type in POLICY_KINDS
                yield (problem if needed else warning)(_ABOUT, _no_right(plural, needed=needed))
            else:
                yield problem(_ABOUT, str(error))
        else:
            readable.append(plural)
    if readable:
        yield ok(_ABOUT, f"this account may list {', '.join(readable)}")


def _no_right(plural: str, *, needed: bool) -> str:
    effect = "weir explain of today's policies has no answer" if needed else "weir explain answers without them"
    return (
        f"this account may not list {plural}: {effect}. Somebody who may gives it the right by a ClusterRole with the "
        f"verbs get, list and watch on {plural}"
    )
