"""What nodes and workloads were before they changed, as far as a record says it of their pods."""

from __future__ import annotations

from enrich.index.changes import Key
from enrich.index.former_values import FormerValues
from enrich.model import Name, Node, Object, Workload


class FormerFacts:
    """Former zones of nodes, and former owners of workloads. One thread at a time writes; any thread may look up."""

    def __init__(self, tail_ns: int, skew_ns: int) -> None:
        self.zones: FormerValues[str, str] = FormerValues(tail_ns, skew_ns)
        """By the name of the node."""
        self.workloads: FormerValues[Name, Workload | None] = FormerValues(tail_ns, skew_ns)
        """By the key of the workload, for as long as it is the same object."""

    def note(self, before: Object | None, after: Object | None, now: int, synced_until: int) -> None:
        """Take over a change of the object of one name; arguments as for :meth:`FormerValues.note`."""
        made = after or before
        if isinstance(made, Node):
            zone, zone_now = _zone(before), _zone(after)
            # The zone that is known first was the node's before, as its addresses were.
            if zone != zone_now and (before is not None or made.name in self.zones):
                self.zones.note(made.name, zone, now, synced_until)
        elif (
            isinstance(before, Workload)
            and isinstance(after, Workload)
            and before.uid == after.uid
            and before.owner != after.owner
        ):
            self.workloads.note(before.key, before, now, synced_until)

    def evict(self, now: int) -> list[Key]:
        """Forget what is older than the retention, and return the keys of the answers that were made from it."""
        nodes = [Key("node", name) for name in self.zones.evict(now)]
        return nodes + [Key("workload", name) for name in self.workloads.evict(now)]


def _zone(made: Object | None) -> str:
    return made.zone if isinstance(made, Node) else ""
