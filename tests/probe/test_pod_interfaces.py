"""What is said of pods' interfaces by one thread while another one attaches programs (``probe.pod_interfaces``)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from enrich.model import Name
from probe.node.binding import Binding
from probe.pod_interfaces import PodInterfaces


def test_what_is_in_the_way_is_named_although_it_changes_meanwhile() -> None:
    obstacles = dict.fromkeys(range(1, 5), "another program")

    class State:
        @property
        def devices(self) -> list[Any]:
            """Other interfaces are attached whenever this is looked at."""
            obstacles.pop(max(obstacles))
            return []

    interfaces = PodInterfaces.__new__(PodInterfaces)
    parts = interfaces.__dict__
    parts["_attachments"], parts["_view"] = SimpleNamespace(obstacles=obstacles), SimpleNamespace(state=State())
    bound: Any = {1: SimpleNamespace(key=Name("a", "web")), 2: SimpleNamespace(key=Name("a", "db"))}
    interfaces.binding = Binding(bound)
    assert interfaces.unenforced() == {
        Name("a", name): f"its interface interface {number} is closed: another program"
        for number, name in ((1, "web"), (2, "db"))
    }
    obstacles.update(dict.fromkeys((3, 4), "another program"))
    assert sorted(interfaces.unjudged_exits()) == ["exit interface 3", "exit interface 4"]
