"""The words of `weir policies` and `weir diff`."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from enrich.history.advice.difference import Ports
from enrich.history.advice.usage import Versions, usage
from enrich.history.left_out import LEFT_OUT
from enrich.wire.batch import Reason
from enrich.wire.pair import HOUR_NS
from enrich.wire.references import PolicyRef
from streams.cli import advice_window
from streams.cli.advice_window import Window
from streams.cli.diff_command import _assumed, ports_text
from streams.cli.main import command
from streams.cli.policies_command import lines
from tests.enrich.history.advice.policies import cluster_policy, from_web, network_policy
from tests.enrich.history.advice.shop import DB, HOUR, PROFILES, WEB, pair, view


def no_versions(_kind: str, _namespace: str, _name: str) -> tuple[()]:
    return ()


def test_the_table_of_policies() -> None:
    versions: Versions = no_versions
    spec = from_web()
    spec["ingress"].append({"from": [{"podSelector": {"matchLabels": {"app": "backup"}}}], "ports": [{"port": 22}]})
    policies = [network_policy("db", spec), network_policy("none", {"podSelector": {"matchLabels": {"app": "x"}}})]
    deny = {"action": "Deny", "from": [{"namespaces": {}}], "protocols": [{"tcp": {"destinationPort": {"number": 22}}}]}
    tier = cluster_policy("no-ssh", {"ingress": [{**deny, "name": "ssh"}]})
    state = view(policies={one.key: one for one in policies}, cluster_policies={tier.key: tier})
    seen = pair(DB, "ingress", WEB, 5432, reason=Reason.POLICY, policies=(PolicyRef("NetworkPolicy", "shop", "db", 0),))
    found = usage(state, PROFILES, [seen], versions, HOUR * HOUR_NS)
    last = "2024-10-04T00:59:59Z"
    table = [" ".join(line.split()) for line in lines(found)]
    assert table == [
        "POLICY RULE SELECTS ALLOWED DENIED AUDITED LAST MATCH STATE",
        "ClusterNetworkPolicy no-ssh edge DaemonSet/ingress, kube-system Deployment/coredns, shop CronJob/backup"
        " and 2 more",
        "ingress 0 'ssh' not seen since 2024-10-04T00:00:00Z",
        f"shop/db StatefulSet/db 10 {last}",
        f"ingress 0 10 {last} used",
        "ingress 1 shadowed: rule 0 of ClusterNetworkPolicy no-ssh always decides before",
        "shop/none no pods selects nobody",
    ]


@pytest.mark.parametrize(
    ("ports", "text"),
    [
        ([Ports(6, 80, 80), Ports(17, 1, 65_535)], "80/TCP, all UDP ports"),
        ([Ports(6, 1, 79), Ports(0, 0, 0)], "1-79/TCP, ICMP and all other protocols"),
        ([Ports(one, 1, 65_535) for one in (6, 17, 132)] + [Ports(0, 0, 0)], "everything"),
        (
            [Ports(6, one, one) for one in range(1, 20, 2)],
            "1/TCP, 3/TCP, 5/TCP, 7/TCP, 9/TCP, 11/TCP, 13/TCP, 15/TCP and 2 more",
        ),
    ],
)
def test_ports_in_words(ports: list[Ports], text: str) -> None:
    assert ports_text(ports) == text


def test_a_policy_that_asks_for_labels_that_profiles_leave_out_is_named() -> None:
    asks = network_policy("hash", {"podSelector": {"matchLabels": {"pod-template-hash": "7f9c"}}})
    views = [view(), view(policies={asks.key: asks})]
    assert _assumed(views, LEFT_OUT) == [
        "NetworkPolicy/shop/hash asks for pod-template-hash, which profiles leave out: pods are taken to be without"
    ]
    assert _assumed(views, ()) == []


def test_what_is_neither_a_folder_nor_the_cluster_is_refused() -> None:
    done = CliRunner().invoke(command, ["diff", "cluster", "nowhere"])
    assert done.exit_code == 2
    assert "nowhere: there is no such file or folder; for the cluster's policies write cluster" in done.stderr


@pytest.mark.parametrize("arguments", [["recommend"], ["policies"], ["diff", "cluster", "cluster"]])
def test_a_window_that_has_no_time_in_it_is_refused(arguments: list[str]) -> None:
    done = CliRunner().invoke(command, [*arguments, "--since", "1h", "--until", "2h"])
    assert done.exit_code == 2
    assert "--since 1h is not before the end of the window" in done.stderr


def test_a_folder_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_given: object, **_more: object) -> Window:
        raise PermissionError(13, "Permission denied", "policies/shop.yaml")

    monkeypatch.setattr(advice_window, "_open", fail)
    done = CliRunner().invoke(command, ["recommend"])
    assert done.exit_code == 3
    assert "weir: the answer cannot be written: [Errno 13] Permission denied: 'policies/shop.yaml'" in done.stderr


@pytest.mark.parametrize("arguments", [["--since", "yesterday"], ["--pod-cidr", "10.0.0.0/99"]])
def test_an_option_that_is_not_understood_is_refused(arguments: list[str]) -> None:
    assert CliRunner().invoke(command, ["policies", *arguments]).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["recommend"],
        ["policies"],
        ["diff", "cluster", "cluster"],
        ["backtest", "--delete", "NetworkPolicy/shop/db"],
    ],
)
@pytest.mark.parametrize(("option", "value"), [("--since", "x"), ("--until", "x"), ("--pod-cidr", "10.0.0.1/8")])
def test_a_wrong_value_is_refused_with_the_name_of_its_option(arguments: list[str], option: str, value: str) -> None:
    done = CliRunner().invoke(command, [*arguments, option, value])
    assert done.exit_code == 2
    assert f"{option}: '{value}'" in done.stderr or f"{option}: {value}" in done.stderr
