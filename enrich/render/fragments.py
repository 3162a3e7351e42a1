"""The JSON fragments of a record: ends of connections, lists of policies, addresses and times.

A fragment is rendered once for a pod, a list of policies, an address or a second, and :mod:`enrich.render.enricher`
splices it into every record that needs it. ``schemas/flow.schema.json`` describes the record field by field; its names
are those of GKE's network policy log where that log has one.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from enrich.index.changes import Key
from enrich.index.cluster import Cluster, workload_key
from enrich.index.intervals import FOREVER
from enrich.index.pod_facts import PodFacts, facts_at, present_facts, present_since_ns, zone_at
from enrich.model import Labels, Name, Owner, Pod
from enrich.render.eviction import KEPT, victims
from enrich.render.label_choice import DEFAULT_LABELS as DEFAULT_LABELS  # noqa: PLC0414 - modules import it from here
from enrich.render.label_choice import LabelChoice as LabelChoice  # noqa: PLC0414 - as above
from enrich.wire.batch import EndpointRef, Header, PolicyRef
from enrich.wire.flow import Dialled, End, NamedPolicy, NamedService, encode

SCHEMA_VERSION: Final = 1
MAX_END_BYTES: Final = 160 << 20
"""Bytes of the rendered pods in memory; at more, a part is evicted. It is enough for 100,000 pods."""
_KEPT_BYTES: Final = 500
"""What a rendered pod takes beside its end, about: what it was rendered from."""


def second_text(second: int) -> str:
    """Return a second since the epoch as RFC 3339 text in UTC, up to and with the decimal point."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))


def named_policies(refs: Iterable[PolicyRef]) -> tuple[NamedPolicy, ...]:
    """Return the policies of some rules, each policy once."""
    return tuple(dict.fromkeys(NamedPolicy(kind=ref.kind, namespace=ref.namespace, name=ref.name) for ref in refs))


@dataclass(frozen=True, slots=True)
class RenderedEnd:
    """An end, and the JSON that stands for it in a record. Ends with the same JSON are equal."""

    json: str
    end: End = field(compare=False)
    profile: str = field(default="", compare=False)
    """The number of the pod's profile; empty if it is not a pod or not fully known, or if pairs are not counted."""

    @property
    def cost(self) -> int:
        """About how many bytes of memory it takes: measured, and rounded up."""
        return 500 + 2 * len(self.json)


def render_end(end: End, profile: str = "") -> RenderedEnd:
    """Render an end. ``profile`` is the number of its pod's profile."""
    return RenderedEnd(encode(end), end, profile)


class RenderedPeer(NamedTuple):
    """A peer by its address, and since and until when (not included) the address was that peer's."""

    end: RenderedEnd
    since_ns: int
    until_ns: int
    settled: bool = True
    """Whether the index is unlikely to learn in a moment who it is, or to learn it better."""
    pods: tuple[str, ...] = ()
    """The UIDs of the pods that the answer was made from, or :func:`node_part` of its node."""


ProfileNumber = Callable[[Pod, Labels, Owner | None], str]
"""Returns the number of the profile of a pod that had these labels and was run by this workload."""


class EndRenderer:
    """Renders the ends of connections by what the index knows, each pod once until it changes.

    :meth:`forget` must follow each change of the index."""

    def __init__(self, cluster: Cluster, labels: LabelChoice, profile: ProfileNumber | None = None) -> None:
        self._cluster = cluster
        self._labels = labels
        self._profile = profile
        self.bytes = 0
        """About how much memory the rendered pods take."""
        self._pods: dict[str, tuple[RenderedEnd, tuple[Key, ...]]] = {}
        """Rendered pods by UID, each with the node and the workload that it was rendered from."""
        self._by_part: defaultdict[Key, set[str]] = defaultdict(set)
        """For each node and workload, the rendered pods that it is part of."""

    def clear(self) -> None:
        """Forget every pod."""
        self.bytes = 0
        self._pods.clear()
        self._by_part.clear()

    def forget(self, keys: Iterable[Key]) -> set[str]:
        """Forget the pods that some keys are part of. Return the UIDs of all pods that may be rendered otherwise now,
        also of pods that were not known."""
        changed: set[str] = set()
        for key in keys:
            if key.kind == "pod":
                changed.add(str(key.name))
            elif key in self._by_part:
                changed |= self._by_part[key]
        for uid in changed:
            end, parts = self._pods.pop(uid, (None, ()))
            self.bytes -= end.cost + _KEPT_BYTES if end else 0
            for part in parts:
                self._by_part[part].discard(uid)
                if not self._by_part[part]:
                    del self._by_part[part]
        return changed

    def evict(self) -> set[str]:
        """Forget some pods if they take too much memory. Return their UIDs: anything that was made from one of them
        must be forgotten as well, because a change of its node or workload is not noticed any more."""
        if self.bytes <= MAX_END_BYTES:
            return set()
        uids = list(self._pods)
        count = 1 + int((1 - KEPT * MAX_END_BYTES / self.bytes) * len(uids))
        return self.forget(Key("pod", uids[place]) for place in victims(np.zeros(len(uids), bool), count).tolist())

    def is_kept(self, end: RenderedEnd) -> bool:
        """Whether an end is among the rendered pods, so that it takes no more memory elsewhere."""
        return self._pods.get(end.end.pod_uid, (None, ()))[0] is end

    def local(self, ref: EndpointRef | None, node: str) -> RenderedEnd:
        """Render the end at whose interface the verdict was made. The probe knows that pod for certain, by its UID."""
        if ref is None:
            return render_end(End(node_name=node))
        pod = self._cluster.addresses.pod_by_uid(ref.uid)
        if pod is not None:
            return self._pod(pod)
        return render_end(
            End(
                pod_name=ref.pod,
                namespace=ref.namespace,
                pod_namespace=ref.namespace,
                pod_uid=ref.uid,
                node_name=node,
            )
        )

    def local_at(self, ref: EndpointRef, node: str, at_ns: int) -> tuple[RenderedEnd, int, int]:
        """Render the end at whose interface the verdict was made as it was then, with since and until when it was."""
        pod = self._cluster.addresses.pod_by_uid(ref.uid)
        return (self.local(ref, node), -FOREVER, FOREVER) if pod is None else self._pod_at(pod, at_ns)

    def changed_endpoints(self, header: Header, earliest_ns: int) -> dict[int, int]:
        """Return the endpoints that may have been otherwise at ``earliest_ns`` or later, each with since when
        :meth:`local` surely holds."""
        pods, former = self._cluster.addresses, self._cluster.former
        latest = max(pods.former_pods.latest_ns, former.zones.since_ns(header.node), former.workloads.latest_ns)
        if earliest_ns >= latest:
            return {}
        known = {int(number): pods.pod_by_uid(ref.uid) for number, ref in header.endpoints.items()}
        since = {number: present_since_ns(self._cluster, pod) for number, pod in known.items() if pod is not None}
        return {number: at_ns for number, at_ns in since.items() if at_ns > earliest_ns}

    def node(self, name: str) -> RenderedEnd:
        """Render a node by its name."""
        node = self._cluster.node(name)
        return render_end(End(node_name=name, zone=node.zone if node else ""))

    def peer(self, ip: str, at_ns: int, node: str) -> RenderedPeer:
        """Render the peer that had an address at the packet's time, by the clock of ``node``."""
        found, since, until = self._cluster.addresses.owner_around(ip, at_ns, node)
        pods = found.candidates
        if found.pod is not None:
            end, labelled_since, labelled_until = self._pod_at(found.pod, at_ns)
            return RenderedPeer(end, max(since, labelled_since), min(until, labelled_until), settled=True, pods=pods)
        if found.ambiguous:
            return RenderedPeer(_ambiguous(ip), since, until, settled=False, pods=pods)
        named = self._cluster.named_addresses.node_at(ip, at_ns)
        since, until = max(since, named.since_ns), min(until, named.until_ns)
        if named.owner is not None:
            zone, zoned_since, zoned_until = zone_at(self._cluster, named.owner.name, at_ns)
            end = render_end(End(node_name=named.owner.name, zone=zone))
            made_from = (node_part(named.owner.name),)
            return RenderedPeer(end, max(since, zoned_since), min(until, zoned_until), pods=made_from)
        ranges = self._cluster.addresses.ranges
        settled = not ranges.near_pods(ip)
        complete_since = ranges.known_since_ns if settled else self.complete_since_ns()
        if ip and at_ns < complete_since:
            return RenderedPeer(_ambiguous(ip), since, min(until, complete_since))
        since = max(since, complete_since)
        return RenderedPeer(render_end(self._outside(ip)), since, until, settled)

    def complete_since_ns(self) -> int:
        """Return the moment before which a pod may have had an address unknown to the index. It grows with time."""
        return self._cluster.addresses.complete_since_ns()

    def in_doubt(self, ip: str, at_ns: int, node: str, end: RenderedEnd) -> RenderedEnd:
        """Render a peer whose address may have changed hands, unknown to the index; ``end`` is what the index knew.

        A pod of which a probe has published the interval keeps its name, and loses what only the API server knows.
        An address of a node is never a pod's."""
        pod = self._cluster.addresses.reported_owner(ip, at_ns, node)
        if pod is not None:
            return self._rendered(pod, PodFacts({}, self._cluster.workload_of(pod), "", complete=False))
        if not self._cluster.addresses.ranges.near_pods(ip) or self._cluster.named_addresses.node_at(ip, at_ns).owner:
            return end
        return _ambiguous(ip)

    def unnamed(self, ip: str) -> RenderedEnd:
        """Render a peer that is surely not who has its address, such as the sender of a packet with a forged source."""
        return _ambiguous(ip)

    def unknown(self, endpoints: Mapping[str, EndpointRef]) -> list[int]:
        """Return the numbers of the endpoints whose pods the index does not know. One without a UID cannot be looked
        up, and counts as known."""
        # A batch lists hundreds of pods, and pending verdicts are looked up by a few of a batch at a time.
        known = self._cluster.addresses.known_uids
        return [int(number) for number, ref in endpoints.items() if ref.uid and ref.uid not in known]

    def dialled(self, ip: str, protocol: int, port: int, at_ns: int) -> tuple[Dialled | None, int, int]:
        """Return what was dialled, with the Service that had that address then; None for no address.

        With it come since and until when the answer is the same."""
        if not ip:
            return None, -FOREVER, FOREVER
        found = self._cluster.named_addresses.service_at(ip, protocol, port, at_ns)
        return Dialled(ip=ip, port=port, service=_named_service(found.owner)), found.since_ns, found.until_ns

    def _outside(self, ip: str) -> End:
        """Return the end of an address that neither a pod nor a node has."""
        if not ip:
            return End()
        service = self._cluster.named_addresses.service_behind(ip)
        return End(instance=ip, service=_named_service(service if service and service.name else None))

    def _pod(self, pod: Pod) -> RenderedEnd:
        found = self._pods.get(pod.uid)
        if found is not None:
            return found[0]
        parts = [Key("node", pod.node)]
        if pod.owner is not None:
            parts.append(Key("workload", workload_key(pod.namespace, pod.owner)))
        for part in parts:
            self._by_part[part].add(pod.uid)
        end = self._rendered(pod, present_facts(self._cluster, pod))
        self._pods[pod.uid] = end, tuple(parts)
        self.bytes += end.cost + _KEPT_BYTES
        return end

    def _pod_at(self, pod: Pod, at_ns: int) -> tuple[RenderedEnd, int, int]:
        """Render a pod as it was at a moment, with since and until when it was so."""
        # The present end also notes which node and workload the answer depends on.
        present, since = self._pod(pod), present_since_ns(self._cluster, pod)
        if at_ns >= since:
            return present, since, FOREVER
        facts = facts_at(self._cluster, pod, at_ns)
        parts = tuple(Key("workload", owner) for owner in facts.owners)
        self._pods[pod.uid] = present, tuple(dict.fromkeys((*self._pods[pod.uid][1], *parts)))
        for part in parts:
            self._by_part[part].add(pod.uid)
        return self._rendered(pod, facts), facts.since_ns, min(facts.until_ns, since)

    def _rendered(self, pod: Pod, facts: PodFacts) -> RenderedEnd:
        profile = ""
        if self._profile is not None and facts.complete:
            profile = self._profile(pod, facts.labels, facts.workload)
        return render_end(self._end(pod, facts), profile)

    def _end(self, pod: Pod, facts: PodFacts) -> End:
        return End(
            pod_name=pod.name,
            namespace=pod.namespace,
            pod_namespace=pod.namespace,
            workload_kind=facts.workload.kind if facts.workload else "",
            workload_name=facts.workload.name if facts.workload else "",
            pod_uid=pod.uid,
            labels=self._labels.pick(facts.labels),
            node_name=pod.node,
            zone=facts.zone,
        )


def node_part(name: str) -> str:
    """Return what stands for a node among the parts of an answer. It is not a UID."""
    return f"node {name}"


def _ambiguous(ip: str) -> RenderedEnd:
    return render_end(End(instance=ip, ambiguous=True))


def _named_service(service: Name | None) -> NamedService | None:
    return NamedService(namespace=service.namespace, name=service.name) if service else None
