"""Makes Arrow columns of verdicts: each column of a merged batch in one step, without Python for a single verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from enrich.render.columns import NO_ADDRESS, AddressTexts
from enrich.render.merged_batch import MergedBatch
from enrich.render.template import BY_POLICY, ICMP, PROTOCOLS, WITH_PORTS
from enrich.wire.batch import AGGREGATED, INGRESS, EndpointRef, Header, PolicyRef, Reason, Verdict
from streams.cli.sql.arrow import CODED, schema_of
from streams.cli.sql.columns import VERDICTS

Make = Callable[[MergedBatch], Any]
SCHEMA: Final = schema_of(VERDICTS, coded=True)
_MAX_TEXTS: Final = 100_000
_KINDS: Final = {int(one): one.name.lower() for one in Verdict}
_REASONS: Final = {int(one): one.name.lower() for one in Reason}
_MICROSECOND_NS: Final = 1_000
_MILLISECOND_NS: Final = 1_000_000


class VerdictColumns:
    """Makes the columns. It remembers texts of addresses, up to a bound."""

    def __init__(self) -> None:
        self._texts = AddressTexts()
        self._makers: Mapping[str, Make] = {
            "timestamp": lambda batch: _times(batch.node_wall),
            "last_timestamp": lambda batch: _times(
                batch.node_wall + batch.verdicts["span_ms"].astype(np.int64) * _MILLISECOND_NS
            ),
            "disposition": lambda batch: _coded(_kinds(batch), lambda kind: _KINDS.get(kind, "unknown")),
            "reason": lambda batch: _coded(batch.verdicts["reason"], lambda reason: _REASONS.get(reason, "unknown")),
            "direction": lambda batch: _coded(_inward(batch), lambda inward: "ingress" if inward else "egress"),
            "src_ip": lambda batch: self._addresses(batch.verdicts["source"], ~_aggregated(batch)),
            "dest_ip": lambda batch: self._addresses(batch.verdicts["destination"], ~_aggregated(batch)),
            "src_port": lambda batch: _numbers(batch.verdicts["source_port"], _ported(batch)),
            "dest_port": lambda batch: _numbers(batch.verdicts["destination_port"], _ported(batch)),
            "protocol": lambda batch: _coded(_protocols(batch), protocol_text),
            "icmp_type": lambda batch: _numbers(_second_byte(batch, 8), _is_icmp(batch)),
            "icmp_code": lambda batch: _numbers(_second_byte(batch, 0), _is_icmp(batch)),
            "dialled_ip": lambda batch: self._addresses(batch.verdicts["dialled"], _any(batch.verdicts["dialled"])),
            "dialled_port": lambda batch: _numbers(batch.verdicts["dialled_port"], _any(batch.verdicts["dialled"])),
            "subject_namespace": lambda batch: _of_endpoints(batch, lambda ref: ref.namespace),
            "subject_pod_name": lambda batch: _of_endpoints(batch, lambda ref: ref.pod),
            "subject_pod_uid": lambda batch: _of_endpoints(batch, lambda ref: ref.uid or None),
            "peer_ip": self._peers,
            "policies": lambda batch: _rules(batch, by_policy=True),
            "isolated_by": lambda batch: _rules(batch, by_policy=False),
            "count": lambda batch: _numbers(batch.verdicts["count"]),
            "node_name": lambda batch: _of_headers(batch, lambda header: header.node),
            "cluster": lambda batch: _of_headers(batch, lambda header: header.cluster),
            "id": _ids,
            "aggregated": lambda batch: pa.array(_aggregated(batch)),
            "logged": lambda batch: pa.array(~batch.cut()),
        }

    def record_batch(self, batch: MergedBatch, columns: Sequence[str]) -> Any:
        """Return some columns of verdicts as an Arrow record batch."""
        if len(self._texts) > _MAX_TEXTS:
            self._texts.evict(len(self._texts) // 2)
        arrays = [self._makers[name](batch) for name in columns]
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([SCHEMA.field(name) for name in columns]))

    def _addresses(self, column: Any, is_known: Any) -> Any:
        raw = np.ascontiguousarray(column)
        values = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(raw), [None, pa.py_buffer(raw)])
        return _texts(values, lambda one: None if one == NO_ADDRESS else self._texts[one], is_known)

    def _peers(self, batch: MergedBatch) -> Any:
        inward = _inward(batch)[:, None]
        peers = np.where(inward, batch.verdicts["source"], batch.verdicts["destination"])
        return self._addresses(peers, ~_aggregated(batch))


def protocol_text(protocol: int) -> str | None:
    """Return the name of a protocol as a record has it; None if it is not known."""
    return PROTOCOLS.get(protocol, str(protocol)) if protocol else None


def rule_value(ref: PolicyRef) -> dict[str, Any]:
    """Return a policy and the index of its rule as a value of :data:`streams.cli.sql.columns.RULE`."""
    return {"kind": ref.kind, "namespace": ref.namespace or None, "name": ref.name, "rule": ref.rule}


# --- the fields of verdicts


def _kinds(batch: MergedBatch) -> Any:
    return batch.verdicts["verdict"] & ~np.uint8(INGRESS)


def _inward(batch: MergedBatch) -> Any:
    return batch.verdicts["verdict"] & INGRESS != 0


def _aggregated(batch: MergedBatch) -> Any:
    return batch.verdicts["flags"] & AGGREGATED != 0


def _protocols(batch: MergedBatch) -> Any:
    return np.where(_aggregated(batch), 0, batch.verdicts["protocol"])


def _second_byte(batch: MergedBatch, shift: int) -> Any:
    """Return ICMP's type or code, which the kernel puts in the place of the destination's port."""
    return (batch.verdicts["destination_port"] >> shift).astype(np.uint8)


def _any(addresses: Any) -> Any:
    return np.ascontiguousarray(addresses).view(np.uint64).any(axis=1)


def _parsed(batch: MergedBatch) -> Any:
    return (_any(batch.verdicts["source"]) | _any(batch.verdicts["destination"])) & ~_aggregated(batch)


def _ported(batch: MergedBatch) -> Any:
    return _parsed(batch) & np.isin(batch.verdicts["protocol"], list(WITH_PORTS))


def _is_icmp(batch: MergedBatch) -> Any:
    return _parsed(batch) & np.isin(batch.verdicts["protocol"], list(ICMP))


# --- arrays


def _times(wall_ns: Any) -> Any:
    return pa.array(wall_ns // _MICROSECOND_NS).view(pa.timestamp("us"))


def _numbers(column: Any, is_known: Any = None) -> Any:
    return pa.array(np.ascontiguousarray(column), mask=None if is_known is None else ~is_known)


def _coded(column: Any, text: Callable[[int], str | None]) -> Any:
    return _texts(pa.array(np.ascontiguousarray(column)), text)


def _texts(values: Any, text: Callable[[Any], str | None], is_known: Any = None) -> Any:
    """Return the texts of some values. Each distinct value is turned into text once; None becomes NULL."""
    found = values.dictionary_encode()
    texts = [text(one) for one in found.dictionary.to_pylist()]
    codes, missing = found.indices, None if is_known is None else ~is_known
    if None in texts:
        codes = codes.to_numpy(zero_copy_only=False)
        is_missing = np.array([one is None for one in texts])[codes]
        missing = is_missing if missing is None else missing | is_missing
    if missing is not None:
        codes = pa.array(np.asarray(codes, np.int32), mask=missing)
    return pa.DictionaryArray.from_arrays(codes, pa.array([one or "" for one in texts], pa.string()))


def _of_headers(batch: MergedBatch, text: Callable[[Header], str]) -> Any:
    texts = pa.array([text(header) for header in batch.headers], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(batch.owner.astype(np.int32)), texts)


def _of_endpoints(batch: MergedBatch, text: Callable[[EndpointRef], str | None]) -> Any:
    def of(key: int) -> str | None:
        ref = batch.headers[key >> 32].endpoints.get(str(key & 0xFFFFFFFF))
        return None if ref is None else text(ref)

    return _coded(batch.owner << 32 | batch.verdicts["endpoint"], of)


def _ids(batch: MergedBatch) -> Any:
    rings = _of_headers(batch, lambda header: header.ring).dictionary_decode()
    numbers = pa.array(batch.numbers).cast(pa.string())
    return pa.compute.binary_join_element_wise(rings, numbers, "-").cast(CODED)


def _rules(batch: MergedBatch, *, by_policy: bool) -> Any:
    """Return the policies that each verdict's rule stands for, if they decided; or if not, as ``by_policy`` says."""
    found = pa.array(batch.owner << 32 | batch.verdicts["rule"]).dictionary_encode()
    refs = (batch.headers[key >> 32].rules.get(str(key & 0xFFFFFFFF), ()) for key in found.dictionary.to_pylist())
    lists = pa.array([[], *([rule_value(ref) for ref in of] for of in refs)], SCHEMA.field("policies").type)
    is_meant = np.isin(batch.verdicts["reason"], list(BY_POLICY)) == by_policy
    return lists.take(pa.array(np.where(is_meant, found.indices.to_numpy() + 1, 0)))
