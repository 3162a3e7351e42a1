"""One trial: verdicts under some policies become pairs, a backtest predicts, and the change is put in force.

The way of a verdict is that of the product: the probe's batcher, the wire, the worker's enricher and its combinations.
Then each prediction is compared with the verdict about the same packet, sent again.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from enrich.history.backtest import Backtest, Outcome
from enrich.history.comparing import Comparer
from enrich.history.profile import number_of, profile_of
from enrich.history.stand_ins import Known
from enrich.history.timeline import Timeline
from enrich.index.cluster import KINDS, Cluster
from enrich.model import Labels, Namespace, Node, Owner, Pod, Policy, Service
from enrich.render.enricher import Enricher
from enrich.render.merged_batch import merge
from enrich.wire.batch import Batch, Verdict, decode_batch
from enrich.wire.pair import HOUR_NS, Pair, PairKey
from probe.export.batcher import Batcher
from probe.ledger import LedgerReferences
from streams.worker.pair_keys import Combinations
from streams.worker.pair_limits import HourLimits
from tests.applied.ground import Ground, Judged, LostError
from tests.applied.packets import Sent, packets
from tests.applied.worlds import POD_RANGES, Case, versioned
from tests.enrich.history.journals import CLUSTER, begin, entry
from tests.kernel.rig import NODE

_KNOWN_RANGES: Final = tuple(map(ipaddress.ip_network, POD_RANGES))
_SECOND_NS: Final = 10**9


@dataclass
class Account:
    """What came of the predictions of all trials."""

    trials: int = 0
    packets: int = 0
    predictions: int = 0
    """Verdicts that were predicted, and that could be compared."""
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    """What came of them."""
    not_reached: int = 0
    """Verdicts of a destination that the second packet did not reach, because its source denies it now."""
    cannot_say: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    """Of the predictions, how many were of each kind that is to be among them."""
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the account in words."""
        unsaid = self.cannot_say.total()
        return [
            f"{self.predictions} predictions, {len(self.wrong)} wrong; {unsaid} cannot say",
            f"of {self.packets} packets in {self.trials} clusters: "
            + ", ".join(f"{self.outcomes[one]} {one.value}" for one in Outcome if one is not Outcome.CANNOT_SAY)
            + f"; {self.not_reached} more did not reach their destination again",
            "among them: " + ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items())),
            *(f"cannot say ({count}): {text}" for text, count in self.cannot_say.most_common()),
            *(f"WRONG: {one}" for one in self.wrong[:20]),
        ]


def run_trial(ground: Ground, case: Case, count: int, account: Account) -> None:
    """Predict what a change does to so many packets, put it in force, and add what came of it to the account."""
    sent = packets(case, count)
    ground.begin(case)
    worker = _Worker(case)
    ground.apply(case.before)
    recorded = ground.send(sent)
    places = list(recorded)
    keys = dict(zip(places, worker.keys(ground, [recorded[place] for place in places]), strict=True))
    ground.apply(case.after)
    again = ground.send(sent)
    account.trials += 1
    account.packets += len(sent)
    _compare(case, sent, keys, recorded, again, account)


def _compare(
    case: Case, sent: list[Sent], keys: dict[Judged, PairKey], recorded: dict[Judged, Any], again: dict[Judged, Any],
    account: Account,
) -> None:  # fmt: skip
    timeline = Timeline(CLUSTER, _journal(case))
    comparer = Comparer(timeline, Known(timeline.profiles, _KNOWN_RANGES), case.change)
    backtest, expected = Backtest(comparer), Counter[Outcome]()
    now = time.time_ns()
    for place, key in keys.items():
        if place not in again:
            sender = again.get((place[0], False))
            if sender is None or _passes(sender):
                raise LostError(f"no second verdict about {sent[place[0]]}")
            account.not_reached += 1
            continue
        pair = Pair(cluster=CLUSTER, hour=now // HOUR_NS, key=key, verdicts=1, packets=1, first_ns=now, last_ns=now)
        predicted = comparer.compare(pair)
        if predicted.passes is None:
            account.cannot_say[predicted.text] += 1
            continue
        backtest.add(pair)
        passed, passes = _passes(recorded[place]), _passes(again[place])
        outcome = _outcome(passed=passed, passes=passes)
        expected[outcome] += 1
        account.predictions += 1
        account.outcomes[outcome] += 1
        account.kinds.update(_kinds(sent[place[0]], key, case))
        if predicted.passes is not passes:
            account.wrong.append(
                f"{sent[place[0]]}, {key}: {'passes' if passes else 'is denied'}, predicted {predicted.decision}"
            )
    # What a person reads.
    sums = {outcome: found.connections for outcome, found in backtest.sums.items() if found.connections}
    if not account.wrong and sums != dict(expected):
        account.wrong.append(f"the sums of the backtest are {sums}, and {dict(expected)} came")


def _passes(verdict: Any) -> bool:
    return int(verdict["verdict"]) & 0x7F != Verdict.DENY


def _outcome(*, passed: bool, passes: bool) -> Outcome:
    if passed is passes:
        return Outcome.UNCHANGED
    return Outcome.NEWLY_ALLOWED if passes else Outcome.NEWLY_DENIED


def _kinds(packet: Sent, key: PairKey, case: Case) -> list[str]:
    """Return of which kinds a prediction is, so that an account shows what it is about."""
    found = ["IPv6" if ":" in packet.source_ip else "IPv4", key.direction]
    found += ["Service"] if key.service else []
    found += ["node"] if key.peer.node else []
    found += ["pod to pod"] if key.peer.profile else []
    found += ["audited"] if key.verdict == "audit" else []
    found += ["ICMP"] if key.protocol in (1, 58) else []
    found += ["cluster policy"] if any(one.kind != "NetworkPolicy" for one in key.policies) else []
    found += ["named port"] if _names_port(case, key) else []
    found += ["replaced policies"] if case.change.replace_all else []
    return found


def _names_port(case: Case, key: PairKey) -> bool:
    """Return whether a policy that decided names a port of pods."""
    named = {(one.kind, one.namespace, one.name) for one in key.policies}
    policies: list[Policy] = [*case.before.policies.values(), *case.before.cluster_policies.values()]
    chosen = [one for one in policies if (type(one).__name__, getattr(one, "namespace", ""), one.name) in named]
    rules = (rule for one in chosen for rule in (*(one.ingress or ()), *(one.egress or ())))
    return any(isinstance(port.port, str) for rule in rules for port in rule.ports or ())


def _journal(case: Case) -> list[Any]:
    profiles = {number_of(one): one for one in map(_profile, case.before.pods.values())}
    return [begin(), *(entry(one, 0) for one in (*profiles.values(), *versioned(case.before)))]


def _profile(pod: Pod) -> Any:
    return profile_of(pod, pod.owner)


def _numbered(pod: Pod, labels: Labels, workload: Owner | None) -> str:
    return number_of(profile_of(pod, workload))


class _Worker:
    """Names verdicts and counts them, as a worker does that watches the cluster of a case."""

    def __init__(self, case: Case) -> None:
        self.cluster = Cluster()
        self.cluster.addresses.set_complete_since(-(1 << 63))
        view = case.before
        self.cluster.replace_all({
            **{kind: [] for kind in KINDS},
            Pod: list(view.pods.values()), Node: list(view.nodes.values()), Namespace: list(view.namespaces.values()),
            Service: [backend.service for backend in case.backends],
        })  # fmt: skip
        self._enricher = Enricher(self.cluster, (), profile=_numbered)
        self._combinations = Combinations(HourLimits(1_000_000, lambda _why: None), 1_000_000)

    def keys(self, ground: Ground, verdicts: list[Any]) -> list[PairKey]:
        """Return the combination in which each verdict is counted."""
        columns = self._enricher.records(merge(*_batches(ground, np.array(verdicts)))).columns
        assert columns is not None
        numbers = self._combinations.numbers([columns], *self._combinations.columns(columns))
        return [self._combinations.keys[number] for number in numbers.tolist()]


def _batches(ground: Ground, verdicts: Any) -> list[Batch]:
    batcher = Batcher((CLUSTER, NODE, "5f0e"), LedgerReferences(ground.rig.numbers), dict, {})
    batcher.start_at(0)
    batcher.add(0, verdicts)
    return [decode_batch(one.value) for one in batcher.take(everything=True)]
