"""Another datapath on the node, such as Cilium's: nothing is done beside it, it is not touched, and that is said."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from netns import Net, Space, connects, ip, listen, run, run_in
from ports import free_port

from probe.kernel import bpf
from probe.node.netlink import NodeNetwork
from probe.other_datapaths import OtherDatapaths
from probe.settings import Settings
from tests.e2e.node import Broker, Node
from tests.pages import page_of
from tests.waiting import until

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).resolve().parents[2]
INGRESS, TC_ACT_OK = 0xFFFFFFF2, 0
CILIUM = '{"name": "gke", "plugins": [{"type": "ptp"}, {"type": "cilium-cni"}]}'


@pytest.fixture
def space() -> Iterator[Space]:
    net = Net()
    yield net.node()
    net.close()


@pytest.fixture
def network(space: Space) -> Iterator[NodeNetwork]:
    made = NodeNetwork(space.path)
    yield made
    made.close()


@pytest.fixture
def others(network: NodeNetwork, tmp_path: Path) -> OtherDatapaths:
    (tmp_path / "conf").mkdir()
    settings = dataclasses.replace(Settings(), pin_dir=tmp_path / "pins", cni_conf_dir=tmp_path / "conf")
    return OtherDatapaths(settings, network)


def put_filter(space: Space, network: NodeNetwork, name: str, link: str = "lxc12") -> None:
    """Attach another agent's program to a pod's interface."""
    ip(space, f"link add {link} type veth peer name eth0")
    index = run_in(space, lambda: socket.if_nametoindex(link))
    network.tc("add", "clsact", index)
    with bpf.closing(bpf.constant_program(action=TC_ACT_OK)) as program:
        network.tc("add-filter", "bpf", index, 1, prio=1, fd=program, name=name, parent=INGRESS, classid=1,
                   direct_action=True, protocol=3)  # fmt: skip


def test_a_node_without_another_datapath_has_none(others: OtherDatapaths) -> None:
    assert not others.look()
    assert others.problem() is None
    assert not others.notes()


@pytest.mark.parametrize(
    ("name", "owner"),
    [("cil_from_container-lxc12", "Cilium"), ("bpf_lxc.o:[from-container]", "Cilium"), ("cali_tc_preamble", "Calico")],
)
def test_programs_on_a_pods_interface_are_known_by_their_names(
    space: Space, network: NodeNetwork, others: OtherDatapaths, name: str, owner: str
) -> None:
    put_filter(space, network, name)
    assert others.look()
    problem = others.problem() or ""
    assert owner in problem
    assert f"{name} is attached to lxc12" in problem
    assert "enforces nothing here" in problem


@pytest.mark.parametrize("device", ["cilium_host", "bpfin.cali", "bpfnatin", "antrea-gw0", "ovn-k8s-mp0", "ovn0"])
def test_devices_of_a_datapath_are_known(space: Space, others: OtherDatapaths, device: str) -> None:
    ip(space, f"link add {device} type veth peer name other")
    assert others.look()
    assert f"the device {device}" in (others.problem() or "")


@pytest.mark.parametrize(
    "config",
    [
        CILIUM,
        '{"name": "antrea", "plugins": [{"type": "antrea"}, {"type": "portmap"}]}',
        '{"name": "ovn", "type": "ovn-k8s-cni-overlay"}',
        '{"name": "multus", "type": "multus", "delegates": [{"name": "c", "plugins": [{"type": "cilium-cni"}]}]}',
    ],
)
def test_plugins_of_a_datapath_are_known_in_the_first_configuration(
    others: OtherDatapaths, tmp_path: Path, config: str
) -> None:
    (tmp_path / "conf/10-net.conflist").write_text('{"name": "net", "plugins": [{"type": "ptp"}]}')
    (tmp_path / "conf/20-other.conflist").write_text(config)
    assert not others.look(), "the runtime does not use it"
    (tmp_path / "conf/05-other.conf").write_text(config)
    assert others.look()
    assert "05-other.conf names its plugin" in (others.problem() or "")


def test_it_is_logged_once_and_who_enforces_already_goes_on(
    space: Space, others: OtherDatapaths, capsys: pytest.CaptureFixture[str]
) -> None:
    ip(space, "link add cilium_host type veth peer name cilium_net")
    for _ in range(3):
        others.look()
    assert capsys.readouterr().out.count("another datapath owns the pods' interfaces") == 1
    others.start()
    others.stop()
    assert "no policy judges it" in (others.problem() or "")
    (sample,) = next(iter(others.collect())).samples
    assert sample.labels == {"name": "Cilium", "enforces": "yes"}


def test_an_agent_that_only_filters_is_named_and_not_in_the_way(
    space: Space, network: NodeNetwork, others: OtherDatapaths
) -> None:
    put_filter(space, network, "handle_ingress", "eni12")
    assert not others.look()
    assert others.problem() is None
    (note,) = others.notes()
    assert "AWS VPC CNI's policy agent" in note


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(Broker(tmp_path), tmp_path)
    made.source = ROOT
    yield made
    made.close()


def test_a_probe_beside_cilium_does_nothing_says_so_and_starts_when_it_is_gone(node: Node) -> None:
    """Its program is left where it is, and pods are as free as before."""
    network = NodeNetwork(node.space.path)
    put_filter(node.space, network, "cil_from_container-lxc12")
    client, server = (node._net.pod(node.space, f"10.244.0.{number}") for number in (1, 2))
    (node.folder / "conf").mkdir()
    conflist = node.folder / "conf/05-cilium.conflist"
    ours = {"type": "weir-cni"}
    conflist.write_text(json.dumps({"name": "cilium", "plugins": [{"type": "cilium-cni"}, ours]}))
    port = free_port()
    probe = node.start(
        WEIR_METRICS=f"127.0.0.1:{port}", WEIR_CNI="on", WEIR_CNI_CONF_DIR=str(node.folder / "conf"),
        WEIR_CNI_BIN_DIR=str(node.folder / "bin"),
    )  # fmt: skip
    probe.wait_for("another datapath owns the pods' interfaces")
    until(lambda: _ready(port)[0] == 503)
    code, text = _ready(port)
    assert code == 503
    assert "datapath: Cilium carries the pods' packets" in text
    assert 'kubeweir_probe_other_datapath{enforces="no",name="Cilium"} 1.0' in page_of(port, "/metrics")[1]
    assert "weir-cni" not in conflist.read_text(), "no pod would start"
    with listen(server, 4, 8080):
        assert connects(client, server.address(4), 8080)
    filters = run(node.space, "tc", "filter", "show", "dev", "lxc12", "ingress")
    assert "cil_from_container-lxc12" in filters
    assert not node.pins.exists()
    assert "kubeweir" not in run(node.space, "tc", "filter", "show", "dev", client.link, "ingress")
    conflist.write_text('{"name": "net", "plugins": [{"type": "ptp"}]}')
    ip(node.space, "link del lxc12")
    probe.wait_for("policy installed")
    until(lambda: "datapath:" not in _ready(port)[1])
    network.close()


def _ready(port: int) -> tuple[int, str]:
    try:
        return page_of(port, "/readyz")
    except OSError:
        return 0, "datapath: nobody answers"
