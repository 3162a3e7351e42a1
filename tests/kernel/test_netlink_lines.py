"""Tests of the commands of ip that the tests send by netlink: they do what ip does with the same words."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from netlink_lines import change_of
from netns import Net, Space, ip, run, run_in, sysctl

from tests.waiting import until

pytestmark = pytest.mark.kernel

POD = "10.244.0.5"
LINES = (
    "link set lo up",
    "link set eth0 up",
    f"addr add {POD}/32 dev eth0",
    "addr add fd44::5/128 dev eth0 nodad",
    "addr add 10.99.0.1/24 dev eth0",
    "route add 169.254.1.1 dev eth0",
    "route add 10.7.0.0/16 dev eth0",
    "route add fd45::7 dev eth0",
    "route add fd46::/64 via fe80::2 dev eth0",
    "route add 10.8.0.0/16 via 10.99.0.2",
    "route replace 10.8.0.0/16 via 10.99.0.3",
    "route add default via 169.254.1.1 dev eth0",
    "route replace default via 169.254.1.1 dev eth0",
    "route add default via fe80::1 dev eth0",
    "link set eth0 master br0",
    "link set eth0 type bridge_slave hairpin on",
)
VOLATILE = {"address", "link", "link_netnsid", "root_id", "bridge_id"}


@pytest.fixture
def net() -> Iterator[Net]:
    made = Net()
    yield made
    made.close()


def by_program(space: Space, *lines: str) -> None:
    subprocess.run(["ip", "-n", space.name, "-batch", "-"], input="\n".join(lines), text=True, check=True)


def is_up(space: Space) -> bool:
    return "state UP" in run(space, "ip", "link", "show", "eth0")


def described(space: Space) -> list[Any]:
    """Return links, addresses and routes as ip shows them, without what differs between two namespaces alike."""
    shown = ("addr", "-4 route show table all", "-6 route show table all")
    return [steady(json.loads(run(space, "ip", "-d", "-j", *what.split()))) for what in shown]


def steady(value: Any) -> Any:
    if isinstance(value, list):
        return [steady(one) for one in value]
    if isinstance(value, dict):
        return {name: steady(one) for name, one in value.items() if name not in VOLATILE}
    return value


def test_each_line_does_what_ip_does(net: Net) -> None:
    assert all(change_of(line) for line in LINES)
    spaces = [net._space(name, ()) for name in ("own", "program", "other-own", "other-program")]
    for space, other, apply in zip(spaces[:2], spaces[2:], (ip, by_program), strict=True):
        # Without link-local addresses, which the kernel makes of random numbers, a moment later.
        sysctl(space, "net.ipv6.conf.default.addr_gen_mode=1")
        apply(space, "link add br0 type bridge")
        apply(space, f"link add eth0 type veth peer name far0 netns {other.name}")
        run(other, "ip", "link", "set", "far0", "up")
        for line in LINES:
            apply(space, line)
        # The kernel finds the carrier a moment later.
        until(functools.partial(is_up, space))
    assert described(spaces[0]) == described(spaces[1])
    ip(spaces[0], "link del eth0")
    assert "eth0" not in run(spaces[0], "ip", "-o", "link")


def test_what_is_not_known_is_left_to_ip(net: Net) -> None:
    space = net._space("one", ())
    lines = ("route add blackhole 10.9.0.0/16", "link add d0 type bridge mcast_snooping 0", "route add default dev lo")
    assert [change_of(line) for line in lines] == [None, None, None]
    ip(space, *lines[:2])
    assert "blackhole 10.9.0.0/16" in run(space, "ip", "route", "show", "type", "blackhole")


@pytest.mark.parametrize("line", ["link set none0 up", "route add 10.9.0.0/16 via 10.99.0.2", "link del none0"])
def test_what_the_kernel_refuses_is_an_error(net: Net, line: str) -> None:
    with pytest.raises(OSError, match=r"no interface with this name|Network is unreachable"):
        ip(net._space("one", ()), line)


def test_a_namespace_has_its_own_parameters_and_its_name_only_once(net: Net) -> None:
    one, other = net._space("one", ()), net._space("other", ())
    sysctl(one, "net.ipv4.ip_forward=1", "net.ipv4.conf.lo.rp_filter=2")
    forwarding, filtering = Path("/proc/sys/net/ipv4/ip_forward"), Path("/proc/sys/net/ipv4/conf/lo/rp_filter")
    assert [run_in(space, forwarding.read_text) for space in (one, other)] == ["1\n", "0\n"]
    assert run_in(one, filtering.read_text) == "2\n"
    with pytest.raises(FileExistsError):
        net._space("one", ())
    assert one.name in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
