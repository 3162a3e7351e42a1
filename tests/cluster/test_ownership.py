"""Whether enforcement is to end, by what a real API server says of the DaemonSet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import kubernetes
import pytest

from enrich.sources.client import Client
from probe.node.ownership import Ownership
from tests.cluster.apiserver import ApiServer, Way
from tests.waiting import until

pytestmark = pytest.mark.cluster

DAEMONSETS = "/apis/apps/v1/namespaces/default/daemonsets"


def create(api: ApiServer, **meta: object) -> None:
    labels = {"app": "weir-probe"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
    api.create(DAEMONSETS, {
        "metadata": {"name": "weir-probe", **meta}, "spec": {"selector": {"matchLabels": labels}, "template": template},
    })  # fmt: skip


@pytest.fixture
def way(api: ApiServer) -> Iterator[Way]:
    made = Way(api.port)
    yield made
    made.close()


@pytest.fixture
def owner(api: ApiServer, way: Way) -> Iterator[Ownership]:
    """Of a DaemonSet that is there, and that it has seen."""
    with watching(api, way) as made:
        yield made


@pytest.fixture
def guarded(api: ApiServer, way: Way) -> Iterator[Ownership]:
    """The same with WEIR_PRUNE_GUARD."""
    with watching(api, way, needs_confirmation=True) as made:
        yield made


@contextlib.contextmanager
def watching(api: ApiServer, way: Way, *, needs_confirmation: bool = False) -> Iterator[Ownership]:
    create(api)
    config = str(api.kubeconfig("admin", way.port))
    client = Client(lambda: kubernetes.config.new_client_from_config(config))
    client.connect()
    made = Ownership("default/weir-probe", client, needs_confirmation=needs_confirmation)
    made.start()
    until(lambda: made.watching)
    yield made
    made.stop()
    with contextlib.suppress(OSError):  # it is gone already
        api.patch(f"{DAEMONSETS}/weir-probe", {"metadata": {"finalizers": None}})
        delete(api)


def delete(api: ApiServer, policy: str = "Background") -> None:
    api.call("DELETE", f"{DAEMONSETS}/weir-probe?propagationPolicy={policy}")


def test_a_daemonset_that_is_there_keeps_enforcement(api: ApiServer, owner: Ownership) -> None:
    assert not owner.is_over()
    api.patch(f"{DAEMONSETS}/weir-probe", {"metadata": {"labels": {"a": "b"}}})
    assert not owner.is_over()


def test_its_deletion_ends_enforcement(api: ApiServer, owner: Ownership) -> None:
    delete(api)
    assert owner.is_over()


def test_so_does_a_deletion_that_waits_for_its_pods(api: ApiServer, owner: Ownership) -> None:
    delete(api, "Foreground")
    assert api.get(f"{DAEMONSETS}/weir-probe")["metadata"]["deletionTimestamp"]
    assert owner.is_over()


def test_a_server_that_does_not_answer_changes_nothing(api: ApiServer, way: Way, owner: Ownership) -> None:
    way.cut()
    assert not owner.is_over()
    delete(api)
    assert not owner.is_over()
    way.mend()


def test_what_the_watch_has_seen_counts_where_no_question_is_answered(
    api: ApiServer, way: Way, owner: Ownership
) -> None:
    delete(api)
    until(lambda: owner.seen_deleted)
    way.cut()
    assert owner.is_over()
    way.mend()


def test_one_made_anew_under_the_same_name_keeps_enforcement(api: ApiServer, owner: Ownership) -> None:
    delete(api)
    until(lambda: owner.seen_deleted)
    create(api)
    assert not owner.is_over()
    until(lambda: not owner.seen_deleted)


def test_with_the_guard_a_deletion_alone_keeps_enforcement(api: ApiServer, guarded: Ownership) -> None:
    delete(api)
    until(lambda: guarded.seen_deleted)
    assert not guarded.is_over()


def test_with_the_guard_a_deletion_that_was_confirmed_ends_enforcement(api: ApiServer, guarded: Ownership) -> None:
    api.patch(f"{DAEMONSETS}/weir-probe", {"metadata": {"annotations": {"kubeweir.io/detach": "confirmed"}}})
    assert not guarded.is_over()
    delete(api)
    until(lambda: guarded.seen_deleted)
    assert guarded.is_over()


def test_with_the_guard_a_confirmation_can_be_withdrawn(api: ApiServer, guarded: Ownership) -> None:
    for value in ("confirmed", None):
        api.patch(f"{DAEMONSETS}/weir-probe", {"metadata": {"annotations": {"kubeweir.io/detach": value}}})
    delete(api)
    until(lambda: guarded.seen_deleted)
    assert not guarded.is_over()


def test_with_the_guard_a_deletion_that_waits_for_its_pods_can_be_confirmed(
    api: ApiServer, way: Way, guarded: Ownership
) -> None:
    way.hang()  # the watch says no more: the answer to the question decides
    delete(api, "Foreground")
    assert not guarded.is_over()
    api.patch(f"{DAEMONSETS}/weir-probe", {"metadata": {"annotations": {"kubeweir.io/detach": "confirmed"}}})
    assert guarded.is_over()
