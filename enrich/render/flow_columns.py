"""The columns that records were rendered from, for readers that choose among the records without parsing their JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

from enrich.render.columns import timestamps
from enrich.render.fragments import SCHEMA_VERSION
from enrich.render.interning import Int64Array
from enrich.render.merged_batch import Mask, MergedBatch
from enrich.render.peer_lookup import PeerTable
from enrich.render.template import Templates
from enrich.wire.flow import Dialled, Flow
from enrich.wire.mapped_address import address_text


@dataclass(frozen=True, slots=True)
class FlowColumns:
    """The columns of a merged batch and of what its verdicts were rendered as, one entry for each record."""

    batch: MergedBatch
    templates: Templates
    template: Int64Array
    """The number of each record's template."""
    peers: PeerTable
    peer: Int64Array
    """The number of each record's peer."""
    dialled: Sequence[str]
    """The JSON member ``dialled`` of each record with its leading comma; empty if the client dialled no Service."""
    dialled_values: Mapping[str, Dialled]
    """What each text in ``dialled`` says."""

    def pick(self, records: Mask) -> FlowColumns:
        """Return the columns of some records."""
        return FlowColumns(
            self.batch.pick(records),
            self.templates,
            self.template[records],
            self.peers,
            self.peer[records],
            list(compress(self.dialled, records)),
            self.dialled_values,
        )

    def flow(self, place: int) -> Flow:
        """Return the record at a place as a value. It equals what :func:`enrich.wire.flow.decode_flow` reads from the
        record's JSON."""
        template = self.templates[int(self.template[place])]
        decision, subject = template.decision, template.subject.end
        peer = self.peers[int(self.peer[place])].end
        ends = (peer, subject) if decision.direction == "ingress" else (subject, peer)
        header = self.batch.headers[int(self.batch.owner[place])]
        here = slice(place, place + 1)
        verdict = self.batch.verdicts[place]
        (first,), (last,) = timestamps(self.batch.verdicts[here], self.batch.node_wall[here])
        source, destination = (_text(verdict[name]) for name in ("source", "destination"))
        ports = int(verdict["source_port"]), int(verdict["destination_port"])
        connection, icmp = template.connection(source, destination, *ports)
        return Flow(
            connection=connection,
            icmp=icmp,
            disposition=decision.disposition,
            reason=decision.reason,
            policies=decision.policies,
            isolated_by=decision.isolated_by,
            src=ends[0],
            dest=ends[1],
            count=int(verdict["count"]),
            timestamp=f"{first}Z",
            last_timestamp=f"{last}Z",
            node_name=decision.node_name,
            cluster=header.cluster,
            schema=SCHEMA_VERSION,
            aggregated=decision.aggregated,
            logged=decision.logged,
            id=f"{header.ring}-{self.batch.numbers[place]}",
            dialled=self.dialled_values.get(self.dialled[place]),
        )


def _text(address: object) -> str:
    raw = bytes(address)  # type: ignore[call-overload]  # a numpy array of 16 bytes
    return address_text(raw) if any(raw) else ""
