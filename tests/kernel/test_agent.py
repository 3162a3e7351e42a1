"""The agent on a real node: what goes while it is looked at holds up nothing else."""

from __future__ import annotations

from pathlib import Path

from enrich.cluster import Cluster, group_by_kind
from enrich.objects import parse
from probe.agent import Agent
from probe.holds import Holds
from tests.kernel.rig import NODE, Rig


def test_a_pod_that_went_since_the_look_does_not_hold_up_the_others(rig: Rig, tmp_path: Path) -> None:
    rig.pod("shop/a", "10.244.0.2")
    rig.pod("shop/b", "10.244.0.3")
    cluster = Cluster()
    made = [*rig.objects.values(), parse({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})]
    cluster.replace_all(group_by_kind([one for one in made if one]))
    agent = Agent(
        NODE, cluster, rig.network, rig.maps, rig.numbers, Holds(NODE, tmp_path / "h", lambda _: None), rig.mode
    )
    agent.reconcile()
    for index in agent.binding.bound:
        rig.attachments.detach(index)
    by_name = {pod.name: index for index, pod in agent.binding.bound.items()}
    rig.net.remove(rig.pods.pop("shop/a"))
    agent.reconcile()  # which still has the interfaces of the last look
    assert rig.attachments.is_attached(by_name["b"])
    agent.reconcile()
    assert "shop/a" in map(str, agent.binding.waiting)
