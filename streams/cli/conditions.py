"""The conditions of commands that show flows, as options: which flows are meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from streams.cli.negation import NOT, condition

F = TypeVar("F", bound=Callable[..., Any])


def _choice(*words: str) -> click.Choice[str]:
    return click.Choice(words, case_sensitive=False)


_CONDITIONS: Final = (
    condition("-n", "--namespace", "namespaces", help="Namespace of either end."),
    condition("--pod", "pods", help="Pod at either end: NAME or NAMESPACE/NAME."),
    condition("--subject", "subjects", help="Pod whose policy decided. NAMESPACE/NAME reads one partition: fast."),
    condition("--workload", "workloads", help="What runs the pod at either end: NAME or KIND/NAME."),
    condition("--from", "sources", help="End that the packets came from: a pod, an address, or a network."),
    condition("--to", "destinations", help="End that the packets went to: a pod, an address, or a network."),
    condition("--cidr", "networks", help="Address of either end: an address or a network."),
    condition("--service", "services", help="Service that was dialled: NAME or NAMESPACE/NAME."),
    condition("--node", "nodes", help="Node that decided."),
    condition("--verdict", "verdicts", type=_choice("allow", "deny", "audit"), help="What was decided."),
    condition("--direction", "directions", type=_choice("ingress", "egress"), help="As the pod sees it that decided."),
    condition("--port", "ports", type=click.IntRange(0, 65535), help="Destination port, or the port that was dialled."),
    condition("--protocol", "protocols", help="tcp, udp, sctp, icmp, icmpv6, or an IANA number."),
    condition("-l", "--label", "labels", help="KEY=VALUE or KEY: a label of either end."),
    condition(
        "--cluster",
        "clusters",
        envvar="WEIR_CLUSTER",
        help="Cluster, where several share the topics. [WEIR_CLUSTER]",
    ),
    condition("--policy", "policies", help="Policy that decided or isolates the pod: NAME or NAMESPACE/NAME."),
    condition("--reason", "reasons", help="Why it was decided so: policy, default_deny, node, ..."),
    condition("--id", "ids", help="Id of the record: RING-NUMBER."),
    condition("--cel", "expressions", help="Expression that is true, where `flow` is the record: 'flow.count > 9'."),
    click.option(NOT, "_not", is_flag=True, help="Leave out what fits the next condition: --not --port 53."),
)


def conditions(function: F) -> F:
    """Give a command all conditions as options. Its class is :class:`streams.cli.negation.NegatingCommand`."""
    for add in reversed(_CONDITIONS):
        function = add(function)
    return function


def without_not(options: dict[str, Any]) -> dict[str, Any]:
    """Return the values of options without that of ``--not`` itself, which is read before click reads the options."""
    return {name: value for name, value in options.items() if name != "_not"}
