"""Who may see which records: those of the own cluster of which at least one end's namespace is allowed. Unsure is no.

With WEIR_WEB_AUTH=kubernetes, the gate asks the API server for each token and namespace, and keeps its answers for a
minute at most. A viewer never waits: until there is an answer, :func:`sees` says None, and the caller asks again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from enrich.runtime.token_gate import ALLOWED, FORBIDDEN, UNAUTHENTICATED, TokenGate
from enrich.wire.flow import Flow

EVERYWHERE: Final = ""
"""The name that stands for all namespaces, and for ends that are in none."""


class Viewer(Protocol):
    """Somebody who looks at the page."""

    @property
    def cluster(self) -> str:
        """The only cluster whose records may be shown: its API server says who may see them. Empty for any cluster."""

    @property
    def asker(self) -> str:
        """Who it is, for counting their questions; empty if all are one."""

    def status(self) -> int | None:
        """Return ALLOWED if it is known who it is; else why not, None while that is asked."""

    def may_see(self, namespace: str) -> bool | None:
        """Return whether the records of a namespace may be shown; None while that is asked."""


class Everybody:
    """The viewer of a page without authentication."""

    cluster: Final = ""
    asker: Final = ""

    def status(self) -> int | None:
        """Return ALLOWED."""
        return ALLOWED

    def may_see(self, namespace: str) -> bool | None:  # noqa: ARG002 - the others ask
        """Return True."""
        return True


class TokenViewer:
    """The bearer of a token."""

    def __init__(
        self, gate: TokenGate, token: str, cluster: str, name: Callable[[str], str] = lambda token: token
    ) -> None:
        """``name`` returns whose a token is, once that was asked."""
        self._gate, self._token, self._name = gate, token, name
        self.cluster: Final = cluster

    @property
    def asker(self) -> str:
        """The name of the user."""
        return self._name(self._token)

    def status(self) -> int | None:
        """Return ALLOWED if the token is somebody's, whatever they may see; else why not, None while that is asked."""
        status = self._gate.look(self._token, EVERYWHERE)
        return ALLOWED if status == FORBIDDEN else status

    def may_see(self, namespace: str) -> bool | None:
        """Return whether the records of a namespace may be shown; None while that is asked."""
        status = self._gate.look(self._token, namespace)
        if status is None:
            status = self._gate.last(self._token, namespace)
        return status == ALLOWED if status in (ALLOWED, FORBIDDEN, UNAUTHENTICATED) else None


def sees(viewer: Viewer, flow: Flow) -> bool | None:
    """Return whether a viewer may see a record; None while that is asked."""
    return sees_ends(viewer, flow.cluster, flow.src.namespace, flow.dest.namespace)


def sees_ends(viewer: Viewer, cluster: str, *namespaces: str) -> bool | None:
    """Return whether a viewer may see what is between ends in these namespaces; None while that is asked."""
    if _is_foreign(viewer, cluster):
        return False
    found = []
    for namespace in dict.fromkeys((EVERYWHERE, *namespaces)):
        answer = viewer.may_see(namespace)
        if answer:
            return True
        found.append(answer)
    return None if None in found else False


def sees_both(viewer: Viewer, flow: Flow) -> bool | None:
    """Return whether a viewer may see everything about both ends, as an explanation tells it; None while that is asked.
    What is no pod has no policies."""
    if _is_foreign(viewer, flow.cluster):
        return False
    if viewer.may_see(EVERYWHERE):
        return True
    ends = [end.namespace for end in (flow.src, flow.dest) if end.namespace]
    answers = [viewer.may_see(namespace) for namespace in ends]
    if False in answers or not answers:
        return False
    return None if None in answers else True


def _is_foreign(viewer: Viewer, cluster: str) -> bool:
    """Return whether it is another cluster, where a namespace of the same name is somebody else's."""
    return bool(viewer.cluster) and cluster != viewer.cluster
