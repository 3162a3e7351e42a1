"""What is logged follows the objects, at any moment and with any mistake in them, and changes no policy."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from enrich.index.cluster import Cluster
from enrich.model import Name, Namespace, NetworkPolicy, Pod
from enrich.network_logging import LogClass, LoggingSpec, NetworkLogging
from enrich.parse.objects import parse
from enrich.policy.matching import PolicyView
from enrich.wire.batch import PolicyRef
from probe.kernel.endpoints import Bound
from probe.kernel.layout import Config
from probe.ledger import Ledger
from probe.policy.logging import LoggingDefaults, make_word
from probe.verdict_logging import VerdictLogging
from tests.probe.kernel.memory_maps import MemoryMaps
from tests.probe.policy.test_compiler_property import ledger

LOG, DELEGATE = LogClass(log=True), LogClass(log=True, delegate=True)
WEB = PolicyRef("NetworkPolicy", "shop", "web", 0)
DNS = PolicyRef("NetworkPolicy", "shop", "dns", 1)
RULES: dict[int, tuple[PolicyRef, ...]] = {1: (WEB,), 2: (DNS, WEB), 3: (DNS,)}
POD = Pod("shop", "web-0", "uid-0", {}, node="n1")
OTHER = Pod("bank", "safe-0", "uid-1", {}, node="n1")
ENDS = [Bound(10, 7, "uid-0", ()), Bound(11, 8, "uid-1", ())]


def policy(name: str, value: str | None) -> NetworkPolicy:
    annotations = {} if value is None else {"policy.network.gke.io/enable-logging": value}
    metadata = {"namespace": "shop", "name": name, "annotations": annotations}
    made = parse({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": {}})
    assert isinstance(made, NetworkPolicy)
    return made


def view(policies: Mapping[str, str | None], namespaces: Mapping[str, str | None] = {}) -> PolicyView:
    """Policies of the namespace shop, and namespaces, each with the value of its annotation."""
    made = [policy(name, value) for name, value in policies.items()]
    known = [Namespace(name, name, {}, deny_logging=value) for name, value in namespaces.items()]
    return PolicyView({}, {one.key: one for one in known}, {}, {one.key: one for one in made}, {})


class Node:
    """The logging of a node with maps in memory."""

    def __init__(self, numbers: Ledger, maps: MemoryMaps, rules: dict[int, tuple[PolicyRef, ...]]) -> None:
        self.numbers, self.maps, self.rules = numbers, maps, rules
        self.cluster = Cluster(kinds={NetworkLogging})
        self.restart()

    def restart(self) -> None:
        self.cluster = Cluster(kinds={NetworkLogging})
        self.logging = VerdictLogging(self.cluster, self.numbers, self.maps, self.rules)  # type: ignore[arg-type]

    def publish(self, *objects: NetworkLogging) -> None:
        self.cluster.replace(NetworkLogging, objects)

    def follow(self, seen: PolicyView) -> None:
        self.logging.follow(seen, [POD, OTHER], ENDS)

    @property
    def word(self) -> int:
        return self.maps.config(Config.LOGGING)

    def named(self) -> dict[int, list[str]]:
        """The names of the policies under which each rule is logged."""
        entries = self.maps["logged_rules"].content.items()
        numbers = {int.from_bytes(key, "little"): int.from_bytes(value, "little") for key, value in entries}
        return {rule: [one["name"] for one in self.numbers.meaning("rule", number)] for rule, number in numbers.items()}

    def listed(self, name: str) -> set[int]:
        """The numbers in one of the two lists."""
        return {int.from_bytes(key, "little") for key in self.maps[name].content}

    def subjects(self) -> set[int]:
        return self.listed("logged_subjects")


@pytest.fixture
def node() -> Iterator[Node]:
    with ledger() as numbers:
        numbers.reserve("rule", max(RULES))
        yield Node(numbers, MemoryMaps({}), dict(RULES))


def valid(allow: LogClass = LogClass(), deny: LogClass = LogClass()) -> NetworkLogging:  # noqa: B008 - immutable
    return NetworkLogging("default", "uid", LoggingSpec(allow, deny))


INVALID = NetworkLogging("default", "", invalid="spec.cluster.deny.delegate: needs `log: true`")


def test_only_rules_with_a_policy_that_asks_are_logged_and_name_only_those(node: Node) -> None:
    node.publish(valid(DELEGATE))
    node.follow(view({"web": "true", "dns": None}))
    assert node.named() == {1: ["web"], 2: ["web"]}
    node.follow(view({"web": "true", "dns": "true"}))
    assert node.named() == {1: ["web"], 2: ["dns", "web"], 3: ["dns"]}
    node.follow(view({"web": "True", "dns": "yes"}))
    assert node.named() == {}


def test_a_new_rule_is_listed_before_the_switch_to_it(node: Node) -> None:
    node.publish(valid(DELEGATE))
    node.follow(view({"web": "true"}))
    node.rules[9] = (WEB, DNS)
    node.logging.write()
    assert node.named()[9] == ["web"]


def test_a_probe_that_starts_empties_no_list_before_it_has_compiled_policy(node: Node) -> None:
    node.publish(valid(DELEGATE))
    node.follow(view({"web": "true"}))
    listed = node.named()
    node.rules = {}
    node.restart()
    node.publish(valid(DELEGATE))
    node.follow(view({"web": "true"}))
    assert node.named() == listed != {}
    node.rules[2] = RULES[2]
    node.logging.write()
    assert node.named() == {2: ["web"]}


def test_a_rule_that_the_ledger_forgets_leaves_the_list(node: Node) -> None:
    node.publish(valid(DELEGATE))
    node.follow(view({"web": "true"}))
    kept = node.logging.references()["rule"]
    assert len(kept) == 1
    del node.rules[1], node.rules[2]
    node.logging.write()
    assert node.named() == {}
    assert node.logging.references()["rule"] == set()


def test_only_endpoints_of_namespaces_that_ask_are_listed(node: Node) -> None:
    node.publish(valid(deny=DELEGATE))
    node.follow(view({}, {"shop": "true", "bank": "yes"}))
    assert node.subjects() == {7}
    node.follow(view({}, {"shop": None, "bank": "true"}))
    assert node.subjects() == {8}
    node.publish(valid(deny=LOG))
    node.follow(view({}, {"bank": "true"}))
    assert node.subjects() == set()


def test_an_invalid_object_leaves_the_last_valid_one_in_force_also_over_a_restart(node: Node) -> None:
    node.publish(valid(LOG, DELEGATE))
    node.follow(view({}))
    word = node.word
    node.publish(INVALID)
    node.follow(view({}))
    assert node.word == word
    assert node.logging.notes() == [
        "logging: NetworkLogging default is not valid, so the last valid one stays in force: "
        "spec.cluster.deny.delegate: needs `log: true`"
    ]
    node.restart()
    node.publish(INVALID)
    node.logging.defaults = LoggingDefaults("none")
    node.follow(view({}))
    assert node.word == word
    node.publish()
    node.follow(view({}))
    assert node.word == make_word(None, LoggingDefaults("none")).encode()
    assert not node.logging.notes()


def test_an_object_that_was_never_valid_leaves_it_to_the_settings(node: Node) -> None:
    node.logging.defaults = LoggingDefaults("denied")
    node.publish(INVALID)
    node.follow(view({}))
    assert node.word == make_word(None, LoggingDefaults("denied")).encode()
    assert "so the settings say what is logged" in node.logging.notes()[0]


def test_until_the_objects_are_listed_what_was_in_force_stays_so(node: Node) -> None:
    node.publish(valid(deny=LOG))
    node.follow(view({}))
    word = node.word
    node.restart()
    node.follow(view({}))
    assert node.word == word


def test_a_list_that_does_not_fit_logs_everything_and_says_so(node: Node) -> None:
    node.maps = MemoryMaps({"logged_rules": 1})
    node.restart()
    node.publish(valid(DELEGATE, LOG))
    node.follow(view({"web": "true"}))
    assert node.word & 0xF == 0
    assert node.logging.modes == {"allowed": "all", "default_allowed": "none", "denied": "all"}
    assert "so all of it is logged" in node.logging.notes()[0]
    del node.rules[1]
    node.follow(view({"web": "true"}))
    assert node.named() == {2: ["web"]}
    assert not node.logging.notes()


def test_a_list_that_replaces_another_needs_room_for_itself_only(node: Node) -> None:
    node.maps = MemoryMaps({"logged_rules": 2, "logged_subjects": 1})
    node.restart()
    node.publish(valid(DELEGATE, DELEGATE))
    node.follow(view({"web": "true"}, {"shop": "true"}))
    listed, delegated = node.named(), node.word
    assert listed == {1: ["web"], 2: ["web"]}
    words: list[int] = []
    drop = node.maps["logged_rules"].drop

    def drop_noted(key: bytes) -> None:
        words.append(node.word)
        drop(key)

    node.maps["logged_rules"].drop = drop_noted  # type: ignore[method-assign]
    node.follow(view({"dns": "true"}, {"bank": "true"}))
    assert node.named() == {2: ["dns"], 3: ["dns"]}
    assert node.subjects() == {8}
    assert node.word == delegated
    assert not node.logging.notes()
    assert words
    assert not any(word & 0xF for word in words), "meanwhile all is logged"


def test_a_kernel_without_memory_logs_everything_and_stops_nothing(node: Node) -> None:
    memory = [False]
    node.maps = MemoryMaps({}, lambda: not memory[0])
    node.restart()
    node.publish(valid(DELEGATE, DELEGATE))
    node.follow(view({"web": "true"}, {"shop": "true"}))
    assert node.word & 0xF == 0
    [note] = node.logging.notes()
    assert "no memory" in note
    assert "WEIR_" not in note, "no setting has the size of this list"
    memory[0] = True
    node.follow(view({"web": "true"}, {"shop": "true"}))
    assert node.word & 0xF == 0b1010
    assert not node.logging.notes()


def test_no_list_names_a_number_that_the_ledger_has_forgotten(node: Node) -> None:
    """Logging was not delegated for a while, or the list did not fit, and the ledger was compacted."""
    asking = view({"web": "true"})
    for maps, meanwhile in ((MemoryMaps({}), valid(LOG)), (MemoryMaps({"logged_rules": 1}), valid(DELEGATE))):
        node.maps = maps
        node.rules = dict(RULES)
        node.restart()
        node.publish(valid(DELEGATE))
        node.follow(asking)
        node.publish(meanwhile)
        node.follow(asking)
        kept = node.logging.references()["rule"] | RULES.keys()
        node.numbers.number_of("rule", f"the highest of {len(kept)}", [])
        node.numbers.forget({"rule": node.numbers.numbers()["rule"] - kept})
        del node.rules[1]
        node.publish(valid(DELEGATE))
        node.follow(asking)
        assert node.named() == {2: ["web"]}


def test_at_no_moment_less_is_logged_than_both_states_log(node: Node) -> None:
    """A probe may be killed between any two writes."""
    seen: list[tuple[int, set[int], set[int]]] = []
    for name in ("logged_rules", "logged_subjects"):
        _record(node, name, seen)
    chance = random.Random(5)  # noqa: S311 - not a secret
    classes = [LogClass(), LOG, DELEGATE]
    before = _logged(node)
    for _ in range(60):
        node.publish(valid(chance.choice(classes), chance.choice(classes)))
        seen.clear()
        asked = {name: chance.choice(["true", None]) for name in ("web", "dns")}
        node.follow(view(asked, {"shop": chance.choice(["true", None])}))
        after = _logged(node)
        for word, rules, subjects in seen:
            moment = _logged_by(word, rules, subjects)
            assert moment >= before & after, (word, rules, subjects)
        before = after


def _record(node: Node, name: str, seen: list[Any]) -> None:
    table = node.maps[name]
    put, drop = table.set, table.drop

    def note() -> None:
        seen.append((node.word, node.listed("logged_rules"), node.subjects()))

    def set_noted(key: bytes, value: bytes) -> None:
        put(key, value)
        note()

    def drop_noted(key: bytes) -> None:
        drop(key)
        note()

    table.set, table.drop = set_noted, drop_noted  # type: ignore[method-assign]


def _logged(node: Node) -> set[str]:
    return _logged_by(node.word, node.listed("logged_rules"), node.subjects())


def _logged_by(word: int, rules: set[int], subjects: set[int]) -> set[str]:
    """What ``bpf/logging.h`` logs: the rules of allowed connections, and the endpoints of denied ones."""
    allowed = {0: set(RULES), 1: set(), 2: rules}[word & 3]
    denied = {0: {7, 8}, 1: set(), 2: subjects}[word >> 2 & 3]
    return {f"rule {one}" for one in allowed} | {f"endpoint {one}" for one in denied}


def test_a_suspicious_annotation_is_named(node: Node) -> None:
    node.publish()
    node.follow(view({"web": "True", "dns": "true"}, {"shop": "", "bank": None}))
    assert node.logging.suspicious == {
        "NetworkPolicy shop/web, annotation policy.network.gke.io/enable-logging": "True",
        "Namespace shop, annotation policy.network.gke.io/enable-deny-logging": "",
    }
    assert "'True' is not 'true', and counts as not set" in "".join(node.logging.notes())
    node.follow(view({f"p{number}": "yes" for number in range(30)}))
    assert len(node.logging.notes()) == 21
    node.follow(view({"web": "true"}))
    assert node.logging.notes() == []


def test_the_numbers_of_lists_are_not_given_out_again_if_the_ledger_is_lost(node: Node) -> None:
    node.publish(valid(DELEGATE))
    node.follow(view({"web": "true"}))
    [number] = node.logging.references()["rule"]
    with ledger() as lost:
        node.numbers = lost
        node.restart()
        assert lost.number_of("rule", "another", []) > number


def test_a_cluster_without_the_kind_waits_for_nothing() -> None:
    cluster = Cluster(kinds={Namespace, NetworkLogging})
    cluster.replace(Namespace, [])
    assert cluster.synced.is_set()
    assert cluster.missing() == []
    assert cluster.network_loggings() is None
    cluster.replace(NetworkLogging, [valid()])
    assert cluster.network_loggings() == {Name("", "default"): valid()}
