"""One pod, as a real API server has it: there, not there, and forbidden."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import kubernetes
import pytest

from enrich.model import Name
from enrich.sources.client import Client
from probe.cni.pod_lookup import PodLookup
from tests.cluster.apiserver import ApiServer, Way

pytestmark = pytest.mark.cluster

PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
def lookup(api: ApiServer) -> Iterator[Callable[[str], PodLookup]]:
    way = Way(api.port)

    def make(user: str = "admin") -> PodLookup:
        config = str(api.kubeconfig(user, way.port))
        client = Client(lambda: kubernetes.config.new_client_from_config(config))
        client.connect()
        return PodLookup(client)

    yield make
    way.close()


def test_a_pod_is_found_with_the_uid_of_its_static_pod(api: ApiServer, lookup: Callable[..., PodLookup]) -> None:
    mirror = {"kubernetes.io/config.mirror": "hash", "kubernetes.io/config.hash": "hash"}
    for name, notes in (("web", {}), ("static", mirror)):
        api.create(PODS, {
            "metadata": {"name": name, "annotations": notes, "labels": {"app": name}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "none"}]},
        })  # fmt: skip
    ask = lookup()
    web, static = ask(Name("default", "web")), ask(Name("default", "static"))
    assert web is not None
    assert static is not None
    assert (web.name, web.labels, web.ips, web.static_uid) == ("web", {"app": "web"}, (), "")
    assert static.static_uid == "hash"


def test_a_pod_that_is_not_there_is_none(lookup: Callable[..., PodLookup]) -> None:
    assert lookup()(Name("default", "gone")) is None
    assert lookup()(Name("nowhere", "gone")) is None


def test_a_server_that_forbids_it_is_an_error(lookup: Callable[..., PodLookup]) -> None:
    with pytest.raises(OSError, match="403"):
        lookup("reader")(Name("default", "web"))
