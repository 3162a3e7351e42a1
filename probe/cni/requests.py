"""What the CNI plugin's requests do: bring a pod's interface under policy before the pod's first process runs.

ADD, for pod shop/web in a new sandbox:

1. Find the host's end of the interface, from the descriptor of the pod's network namespace.
2. Take the pod from the watch. Kubelet has it from a watch of its own, so it may be there a moment later: after
   ``_WATCH_S`` seconds the API server is asked once. A pod that it does not have is refused.
3. Record the assignment (:mod:`probe.node.assignments`), and wake the agent. Its pass writes the ledger, installs the
   pod's policy and attaches the programs.
4. When that is in force, answer with the result of the plugins before this one. The pod's processes start.

What takes longer than ``WEIR_CNI_WAIT`` fails with "try again later": kubelet makes the sandbox again. With
``WEIR_CNI_ON_FAILURE=open`` the pod starts all the same, and the agent goes on to bring its interface under policy.

A static pod has policy by its mirror pod. While there is none, because the API server does not run yet, the probe does
not know which policies apply, and the pod waits. (The API server's own static pod is on the host's network, for which
CNI is not asked.)
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from enrich.index.cluster import Cluster
from enrich.model import Name, Pod
from probe.cni.messages import (
    COMMANDS,
    INVALID_ENVIRONMENT,
    NOT_ENFORCED,
    TRY_AGAIN_LATER,
    Request,
    RequestError,
    failure,
    parse_request,
    success,
)
from probe.node.assignments import Assignment, Assignments, with_addresses
from probe.node.netlink import NodeNetwork
from probe.node.sandbox import NotEnforceableError, host_end

log = structlog.get_logger("kubeweir.cni")

_WATCH_S: Final = 1.0
"""How long the watch may be behind kubelet's before the API server is asked."""
_MARGIN_S: Final = 0.5
"""The probe answers this much before the plugin stops to wait, so that its own message reaches kubelet."""
RESULTS: Final = ("ok", "let_through", "try_again_later", "refused")


class Enforcer(Protocol):
    """What a request needs of the agent."""

    def problem(self) -> str | None:
        """Return why policy is not in force, None if it is."""

    def links_changed(self) -> None:
        """Have the next pass read the network."""

    def is_attached(self, index: int) -> bool:
        """Return whether the programs are attached to an interface now."""


Ask = Callable[[Name], Pod | None]
"""Asks the API server for a pod. None: it has no such pod. Raises OSError if it does not answer."""


class Requests:
    """Answers requests, on any number of threads."""

    def __init__(
        self,
        node: str,
        cluster: Cluster,
        network: NodeNetwork,
        assignments: Assignments,
        enforcer: Enforcer,
        ask: Ask | None = None,
        *,
        wait_s: float,
        lets_through: bool,
    ) -> None:
        """``ask`` is None if the objects do not come from an API server."""
        self._node, self._cluster, self._network = node, cluster, network
        self._assignments, self._enforcer, self._ask = assignments, enforcer, ask
        self._wait_s, self._lets_through = max(_MARGIN_S, wait_s - _MARGIN_S), lets_through
        self._changed = threading.Condition()
        self._lock = threading.Lock()
        self.counts: Counter[tuple[str, str]] = Counter(
            {(command, result): 0 for command in COMMANDS for result in RESULTS}
        )
        """Requests by command and result."""
        self.seconds: dict[str, float] = dict.fromkeys(COMMANDS, 0.0)
        """Seconds that requests have taken, by command."""
        cluster.subscribe(self._wake)

    def answer(self, raw: bytes, descriptor: int | None) -> bytes:
        """Answer a request. This is what the server calls; it does not raise."""
        started = time.monotonic()
        try:
            request = parse_request(raw)
        except RequestError as error:
            log.warning("a request of the CNI plugin cannot be understood", error=str(error), advice=error.advice)
            return failure(error)
        try:
            result, answered = "ok", self._do(request, descriptor, started + self._wait_s)
        except RequestError as error:
            result, answered = self._failed(request, error)
        except Exception as error:
            log.exception("a request of the CNI plugin failed", command=request.command)
            unexpected = RequestError(f"unexpected error of weir-probe: {error!r}", TRY_AGAIN_LATER, "see its log")
            result, answered = self._failed(request, unexpected)
        with self._lock:
            self.counts[request.command, result] += 1
            self.seconds[request.command] += time.monotonic() - started
        return answered

    def _do(self, request: Request, descriptor: int | None, deadline: float) -> bytes:
        match request.command:
            case "ADD":
                self._add(request, descriptor, deadline)
                return success(request.previous)
            case "DEL":
                if self._assignments.end(request.container, request.interface):
                    self._enforcer.links_changed()
                return success()
            case _:
                self._check(request)
                return success()

    def _failed(self, request: Request, error: RequestError) -> tuple[str, bytes]:
        """Answer with an error, or as if all were well if the settings say so; log what to do."""
        pod = f"{request.namespace}/{request.pod}"
        if request.command == "DEL":
            return "refused", success()
        if request.command == "ADD" and self._lets_through:
            log.error("a pod starts without policy (WEIR_CNI_ON_FAILURE=open)", pod=pod, reason=str(error),
                      advice=error.advice)  # fmt: skip
            return "let_through", success(request.previous)
        log.warning("a request of the CNI plugin was refused", command=request.command, pod=pod, reason=str(error),
                    advice=error.advice, code=error.code)  # fmt: skip
        return ("try_again_later" if error.code == TRY_AGAIN_LATER else "refused"), failure(error, request.version)

    def _add(self, request: Request, descriptor: int | None, deadline: float) -> None:
        if descriptor is None:
            raise RequestError("the pod's network namespace (CNI_NETNS) cannot be opened", INVALID_ENVIRONMENT)
        try:
            index = self._network.run(host_end, descriptor, request.interface)
        except (NotEnforceableError, OSError) as error:
            raise RequestError(
                f"kubeweir cannot enforce policy on {request.interface}: {error}", INVALID_ENVIRONMENT,
                "policy needs veth interfaces with one end on the node; leave out the CNI plugin on other nodes, or "
                "set WEIR_CNI_ON_FAILURE=open",
            ) from error  # fmt: skip
        pod = with_addresses(self._pod(request, deadline), request.addresses)
        assignment = Assignment(index, request.container, request.interface, request.uid, pod)
        self._assignments.assign(assignment)
        self._enforcer.links_changed()
        if not self._assignments.wait(assignment, deadline):
            reason = self._enforcer.problem() or "the interface was not attached in time"
            raise RequestError(
                f"policy of pod {pod.key} is not in force yet: {reason}", TRY_AGAIN_LATER,
                "the pod waits; if this lasts, see the log of weir-probe on this node",
            )  # fmt: skip

    def _check(self, request: Request) -> None:
        index = self._assignments.is_enforced(request.container, request.interface)
        if index is None or not self._enforcer.is_attached(index):
            raise RequestError(
                f"interface {request.interface} is not under the policy of pod {request.namespace}/{request.pod}",
                NOT_ENFORCED, "see /readyz and the log of weir-probe on this node",
            )  # fmt: skip

    def _pod(self, request: Request, deadline: float) -> Pod:
        """Return the pod's object, and wait for it and for its namespace. Raises RequestError."""
        name = Name(request.namespace, request.pod)
        if pod := self._await(request, name, min(deadline, time.monotonic() + _WATCH_S)):
            return pod
        if self._cluster.synced.is_set() and self._ask is not None:
            try:
                found = self._ask(name)
            except OSError as error:
                log.warning("the API server does not tell whether a pod exists: the watch decides",
                            pod=str(name), error=str(error))  # fmt: skip
            else:
                if found is None:
                    raise RequestError(f"the API server has no pod {name}", TRY_AGAIN_LATER, "it was deleted")
                if self._is_meant(found, request) and self._has_namespace(name):
                    return found
        if pod := self._await(request, name, deadline):
            return pod
        missing = ", ".join(self._cluster.missing())
        raise RequestError(
            f"pod {name} is not known yet" + (f": still waiting for the first list of {missing}" if missing else ""),
            TRY_AGAIN_LATER, "the pod waits; if this lasts, see /readyz of weir-probe on this node",
        )  # fmt: skip

    def _await(self, request: Request, name: Name, until: float) -> Pod | None:
        """Wait until the watch has the pod and its namespace; None at the deadline."""
        found: list[Pod] = []

        def known() -> bool:
            pod = self._cluster.pods().get(name) if self._cluster.synced.is_set() else None
            if pod is not None and self._is_meant(pod, request) and self._has_namespace(name):
                found[:] = [pod]
            return bool(found)

        with self._changed:
            self._changed.wait_for(known, max(0.0, until - time.monotonic()))
        return found[0] if found else None

    def _is_meant(self, pod: Pod, request: Request) -> bool:
        """Return whether this object is the pod of the request, and not one of the same name before or after it."""
        return pod.node == self._node and request.uid in ("", pod.uid, pod.static_uid)

    def _has_namespace(self, name: Name) -> bool:
        return Name("", name.namespace) in self._cluster.namespaces()

    def _wake(self, _kinds: frozenset[type]) -> None:
        with self._changed:
            self._changed.notify_all()
