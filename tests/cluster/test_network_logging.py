"""The kind NetworkLogging with a real kube-apiserver: our definition of it, and what the probe's source makes of it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from enrich.model import Name, Namespace, NetworkPolicy, Pod
from enrich.network_logging import LogClass, LoggingSpec, NetworkLogging
from enrich.parse.metadata import DENY_LOGGING, LOGGING
from enrich.policy.matching import PolicyView
from enrich.wire.batch import PolicyRef
from probe.kernel.endpoints import Bound
from probe.kernel.layout import Config
from probe.ledger import Ledger
from probe.policy.logging import LoggingDefaults, make_word
from probe.verdict_logging import VerdictLogging
from tests.cluster.apiserver import ApiServer
from tests.cluster.test_definitions import DEFINITIONS, remove
from tests.cluster.test_kubernetes_source import Watched
from tests.cluster.test_validation import differences
from tests.enrich.parse.test_network_logging import INVALID, VALID, network_logging
from tests.probe.kernel.memory_maps import MemoryMaps
from tests.probe.test_verdict_logging import DELEGATE, LOG, Node
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
COMPONENT = ROOT / "deploy/kubernetes/components/network-logging"
DEFINITION = "networkloggings.networking.gke.io"
OBJECTS = "/apis/networking.gke.io/v1alpha1/networkloggings"
ONLY = Name("", "default")
OFF = LogClass()
EVERYTHING = {"cluster": {"allow": {"log": True}, "deny": {"log": True}}}


def definition(*, validates: bool = True) -> dict[str, Any]:
    """Our definition of the kind; if it is not to validate, one that keeps all fields of an object."""
    made: dict[str, Any] = yaml.safe_load((COMPONENT / "definition.yaml").read_text())
    if not validates:
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        made["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = anything
    return made


def install(api: ApiServer, made: dict[str, Any]) -> None:
    api.create(DEFINITIONS, made)

    def is_served() -> bool:
        try:
            api.get(OBJECTS)
        except OSError:
            return False
        return True

    until(is_served)


@pytest.fixture
def watched(api: ApiServer) -> Iterator[Watched]:
    """A source of what logging depends on."""
    made = Watched(api, kinds=(Namespace, NetworkPolicy, NetworkLogging))
    try:
        assert made.cluster.synced.wait(240), made.source.problem()
        yield made
    finally:
        made.close()
        remove(api, DEFINITION)


def found(watched: Watched) -> NetworkLogging | None:
    return (watched.cluster.network_loggings() or {}).get(ONLY)


@pytest.mark.usefixtures("watched")
def test_our_definition_takes_and_refuses_what_we_do(api: ApiServer) -> None:
    install(api, definition())
    specs = [spec for spec, _ in (*VALID, *INVALID)]
    assert differences(api, OBJECTS, map(network_logging, specs)) == []
    with pytest.raises(OSError, match="the only NetworkLogging of a cluster is named default"):
        api.create(f"{OBJECTS}?dryRun=All", network_logging({}, name="other"))
    with pytest.raises(OSError, match=r"delegate needs log: true"):
        api.create(f"{OBJECTS}?dryRun=All", network_logging({"cluster": {"deny": {"delegate": True}}}))
    # What people see before they have written anything.
    described = api.get("/openapi/v3/apis/networking.gke.io/v1alpha1", raw=True)
    schemas = json.loads(described)["components"]["schemas"]["io.gke.networking.v1alpha1.NetworkLogging"]
    cluster = schemas["properties"]["spec"]["properties"]["cluster"]["properties"]
    assert "enable-logging" in cluster["allow"]["properties"]["delegate"]["description"]
    assert "enable-deny-logging" in cluster["deny"]["properties"]["delegate"]["description"]
    discovered = api.get("/apis/networking.gke.io/v1alpha1")["resources"][0]
    assert (discovered["shortNames"], discovered["namespaced"]) == (["nl"], False)


def test_a_cluster_without_the_kind_is_nothing_to_report(
    api: ApiServer, watched: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster, source = watched.cluster, watched.source
    until(lambda: cluster.network_loggings() is not None and source.problem() is None)
    install(api, definition())
    api.create(OBJECTS, network_logging(EVERYTHING))
    until(lambda: found(watched) is not None)
    api.patch(f"{OBJECTS}/default", {"spec": {"cluster": {"allow": {"delegate": True}}}})
    until(lambda: (made := found(watched)) is not None and made.spec is not None and made.spec.allow.delegate)
    # Without the kind there is no object: the settings say what is logged again.
    api.delete(f"{DEFINITIONS}/{DEFINITION}")
    until(lambda: found(watched) is None)
    until(lambda: source.problem() is None, 60)
    assert source.kept() == {}
    # The API server answers 429 while it makes or removes the storage of a kind.
    reported = [line for line in capsys.readouterr().out.splitlines() if "error" in line]
    assert [line for line in reported if "429 Too Many Requests" not in line] == []


def test_an_object_that_was_not_validated_is_known_as_invalid(api: ApiServer, watched: Watched) -> None:
    source = watched.source
    install(api, definition(validates=False))
    api.create(OBJECTS, network_logging(EVERYTHING))
    until(lambda: found(watched) is not None)
    api.patch(f"{OBJECTS}/default", {"spec": {"cluster": {"deny": {"log": False, "delegate": True}}}})
    until(lambda: (made := found(watched)) is not None and bool(made.invalid))
    assert source.refused() == ["NetworkLogging default"]
    api.create(OBJECTS, network_logging(EVERYTHING, name="other"))
    until(lambda: source.refused() == ["NetworkLogging default", "NetworkLogging other"])
    api.delete(f"{OBJECTS}/other")
    api.patch(f"{OBJECTS}/default", {"spec": {"cluster": {"deny": {"delegate": False}}}})
    until(lambda: (made := found(watched)) is not None and not made.invalid)
    until(lambda: source.refused() == [])


def test_annotations_are_watched(api: ApiServer, watched: Watched) -> None:
    cluster = watched.cluster
    api.create("/api/v1/namespaces", {"metadata": {"name": "annotated"}})
    path = "/apis/networking.k8s.io/v1/namespaces/annotated/networkpolicies"
    api.create(path, {"metadata": {"name": "web"}, "spec": {"podSelector": {}}})
    until(lambda: Name("annotated", "web") in cluster.policies())
    api.patch(f"{path}/web", {"metadata": {"annotations": {LOGGING: "true"}}})
    until(lambda: cluster.policies()[Name("annotated", "web")].logging == "true")
    api.patch("/api/v1/namespaces/annotated", {"metadata": {"annotations": {DENY_LOGGING: "yes"}}})
    until(lambda: cluster.namespaces()[Name("", "annotated")].deny_logging == "yes")


def test_a_change_is_put_in_force_by_its_event_alone(
    api: ApiServer, watched: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The agent waits for the same event. No timer runs here, so a change without an event would never be in force."""
    install(api, definition())
    api.create(OBJECTS, network_logging({}))
    until(lambda: found(watched) is not None)
    changed = threading.Event()
    watched.cluster.subscribe(lambda _kinds: changed.set())
    maps, nothing = MemoryMaps({}), PolicyView({}, {}, {}, {}, {})
    with contextlib.closing(Ledger.open(tmp_path / "ledger")) as numbers:
        logging = VerdictLogging(watched.cluster, numbers, maps, {})  # type: ignore[arg-type]
        took = []
        for allow in (True, False) * 5:
            spec = {"cluster": {"allow": {"log": allow}, "deny": {"log": True}}}
            expected = make_word(LoggingSpec(LogClass(allow), LogClass(log=True)), LoggingDefaults()).encode()
            began = time.monotonic()
            api.patch(f"{OBJECTS}/default", {"spec": spec})
            while maps.config(Config.LOGGING) != expected:
                assert changed.wait(240), "no event arrived"
                changed.clear()
                logging.follow(nothing, (), ())
            took.append(time.monotonic() - began)
    with capsys.disabled():
        print(f"\na NetworkLogging is in force {max(took) * 1000:.0f} ms after the request at most")


def test_each_setting_is_put_in_force_with_all_that_asks(api: ApiServer, watched: Watched, tmp_path: Path) -> None:
    """What appears under each of them, tests/e2e/test_logging_settings.py shows by packets."""
    install(api, definition())
    namespaces = {"asks": "true", "other": "yes"}
    for name, value in namespaces.items():
        api.create("/api/v1/namespaces", {"metadata": {"name": name, "annotations": {DENY_LOGGING: value}}})
    for name, value in (("web", "true"), ("dns", "True")):
        metadata = {"name": name, "annotations": {LOGGING: value}}
        path = "/apis/networking.k8s.io/v1/namespaces/asks/networkpolicies"
        api.create(path, {"metadata": metadata, "spec": {"podSelector": {}}})
    api.create(OBJECTS, network_logging({}))
    cluster = watched.cluster
    until(lambda: cluster.policies().keys() >= {Name("asks", "web"), Name("asks", "dns")})
    until(lambda: cluster.namespaces().keys() >= {Name("", name) for name in namespaces})
    web, dns = (PolicyRef("NetworkPolicy", "asks", name, 0) for name in ("web", "dns"))
    pods = [Pod(name, "pod", f"uid-{name}", {}, node="n1") for name in namespaces]
    ends = [Bound(index, number, pod.uid, ()) for index, (number, pod) in enumerate(zip((7, 8), pods, strict=True))]
    with contextlib.closing(Ledger.open(tmp_path / "ledger")) as numbers:
        numbers.reserve("rule", 3)
        node = Node(numbers, MemoryMaps({}), {1: (web,), 2: (dns, web), 3: (dns,)})
        node.logging = VerdictLogging(cluster, numbers, node.maps, node.rules)  # type: ignore[arg-type]
        for allow, deny in product((OFF, LOG, DELEGATE), repeat=2):
            api.patch(f"{OBJECTS}/default", {"spec": {"cluster": {"allow": _asdict(allow), "deny": _asdict(deny)}}})
            until(lambda: (made := found(watched)) is not None and made.spec == LoggingSpec(allow, deny))  # noqa: B023
            node.logging.follow(PolicyView({}, cluster.namespaces(), {}, cluster.policies(), {}), pods, ends)
            modes = {OFF: "none", LOG: "all", DELEGATE: "delegated"}
            assert node.logging.modes == {
                "allowed": modes[allow], "default_allowed": "all" if allow == LOG else "none", "denied": modes[deny],
            }  # fmt: skip
            assert node.named() == ({1: ["web"], 2: ["web"]} if allow == DELEGATE else {})
            assert node.subjects() == ({7} if deny == DELEGATE else set())


def _asdict(one: LogClass) -> dict[str, bool]:
    return {"log": one.log, "delegate": one.delegate}
