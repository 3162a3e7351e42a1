"""What alerts, sinks and commands do with the records of the topics that they read."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from enrich.history.epochs import Epochs
from enrich.wire.flow import decode_flow
from streams.alerts.counting import RecordCounter
from streams.alerts.deltas import Delta, decode, encode, fingerprint, version_of
from streams.alerts.outputs import _firing_record, _is_alert
from streams.alerts.policy_changes import PolicyChange
from streams.cli.columns import read_columns, row_of
from streams.cli.dead_letters import Redriven, letter_of, why_not
from streams.cli.table import WIDE, flow_cells
from streams.cli.verify_epochs import add_statement
from streams.cli.verifying import Account
from streams.forms import FORMS
from streams.hubble.census import Census
from streams.hubble.filters import FlowFilters
from streams.hubble.flow_form import response
from streams.hubble.losses import new_loss
from streams.hubble.messages import message
from streams.kafka.dead_letter_form import headers_of
from streams.kafka.records import Record
from streams.observing.choice import Choice
from streams.observing.filters import Filters
from streams.observing.observe import Selection
from streams.sinks.alertmanager import AlertmanagerSink
from streams.sinks.feed import is_own_alert, is_own_record
from streams.sinks.otlp import attributes
from streams.sinks.sink import RefusedError
from tests.enrich.history.flows_of_worlds import timestamp
from tests.enrich.history.journals import CLUSTER, at
from tests.enrich.history.test_epochs import statement
from tests.enrich.history.test_verifying import BASE, DENIED, DENY, PODS, WINDOW, verifier_of
from tests.fuzz.enricher import FRESH, TOPICS
from tests.fuzz.reader import Reader
from tests.streams.alerts.makers import T0, flow, loss, rule, stamp
from tests.streams.alerts.test_engine_loop import Transactions
from tests.streams.alerts.test_hostile_records import AHEAD, DELTAS, RULES, STATES, engine_loop


class Flows(Reader):
    """Alerts, sinks, their forms, Hubble's API and `weir observe`: each refuses a record by ValueError, or takes it."""

    good = (
        orjson.dumps(flow()),
        orjson.dumps(flow(connection={"src_ip": "fd00::1", "dest_ip": "fd00::2", "direction": "ingress"})),
        # Of a time and of pods that `weir verify` knows.
        msgspec.json.encode(msgspec.structs.replace(DENIED, timestamp=timestamp(500), last_timestamp=timestamp(500))),
    )

    def __init__(self) -> None:
        self._count = 0
        self._renew()

    def _renew(self) -> None:
        self._counter = RecordCounter(RULES)
        self._selection = Selection(Choice(Filters(), Filters(networks=["10.0.0.0/8"])))
        self._census, self._hubble = Census(), FlowFilters([message("FlowFilter")(source_ip=["10.0.0.0/8"])], [], ())
        self._columns = read_columns("--by", "hour,policy,service,workload,peer.name,src.labels.app")
        self._account = Account(verifier_of(BASE, PODS), "c1", WINDOW)

    def __call__(self, value: bytes) -> None:
        self._count += 1
        if self._count % FRESH == 0:
            self._renew()
        is_own_record("c1", value)
        self._account.add([value])
        try:
            self._counter.count_flow(self._counter.read_flow(value))
        except ValueError:
            pass
        else:
            for _, encoded in encode(self._counter.drain(), 1):
                assert decode(encoded)
        shown = self._selection.pick(value)
        if shown is not None:
            for cells in (flow_cells(shown.flow), WIDE.cells(shown.flow), row_of(self._columns, shown.flow)):
                assert all(isinstance(cell, str) for cell in cells)
        try:
            found = decode_flow(value)
        except ValueError:
            return
        attributes(found)
        self._census.add_flow(value, 1e9)
        with contextlib.suppress(ValueError):  # an address or a time is none
            self._hubble.match(found, value)
            assert response(found, "", {}).SerializeToString()
        for form in FORMS.values():
            try:
                orjson.loads(form(found)) if form is not FORMS["cef"] else form(found)
            except ValueError:
                continue


class Status(Reader):
    """The count loop: a status record is counted, or refused by ValueError. What nodes say of policies is kept."""

    good = (
        orjson.dumps(loss()), orjson.dumps({**loss(), "type": "heartbeat", "next": 5}),
        *(msgspec.json.encode(statement(change, [DENY], switched)) for change, switched in ((1, None), (2, 20.0))),
    )  # fmt: skip

    def __init__(self) -> None:
        self._census = Census()
        self._counter = RecordCounter([rule(name="lost", of="lost", group_by=["node"], above={"threshold": 1})])

    def __call__(self, value: bytes) -> None:
        self._census.add_status(value, 1e9)
        lost = new_loss(Record(0, 0, b"", value, 1), "")
        assert lost is None or lost.SerializeToString()
        epochs = Epochs()
        for written_ms in (5, 6):
            add_statement(epochs, CLUSTER, value, written_ms)
        assert epochs.at("ring", at(0), at(5)) is None, "one node's word has no end"
        try:
            self._counter.count_status(value)
        except ValueError:
            return
        for _, encoded in encode(self._counter.drain(), 1):
            assert decode(encoded)


((_, _LATER),) = encode([Delta("above", version_of(RULES[0]), ["c1", "later"], {AHEAD: 1})], 1)
"""The delta of a group that no malformed record is about."""


_ODD_KEYS = (b"\xff/0000000000000001", b"gone/", b"gone/x", b"")


class Deltas(Reader):
    """The engine loop: deltas are taken or reported as bad, and the next ones fire."""

    good = (orjson.dumps(DELTAS),)
    together = 64

    def __call__(self, value: bytes) -> None:
        self.take((value,))

    def take(self, values: Sequence[bytes]) -> None:
        bad: list[str] = []
        transactions = Transactions(*values, _LATER)
        engine_loop([], bad, limit=1000).step(transactions)
        assert len(bad) <= len(values)
        assert _has_fired(transactions), "the next one does not fire"


class State(Reader):
    """A new owner of the alerts' partitions: it uses a state, or ignores it, and works."""

    good = (
        *(value for _, value in STATES),
        msgspec.json.encode(PolicyChange("NetworkPolicy/shop/web", "updated", float(T0))),
        orjson.dumps({"rule": "first", "version": version_of(RULES[2]), "since": T0}),
    )
    together = 64

    def __call__(self, value: bytes) -> None:
        self.take((value,))

    def take(self, values: Sequence[bytes]) -> None:
        # Each value is stored in a partition of its own, as what it is and as everything else.
        state = [
            Record(partition, number, key, value, 0)
            for partition, value in enumerate(values)
            for number, key in enumerate((
                _state_key(value), STATES[2][0], _ODD_KEYS[partition % len(_ODD_KEYS)], b"change/%d" % partition,
                b"learn/first",
            ))
        ]  # fmt: skip
        loop = engine_loop(state, [], limit=1000)
        loop.engine.tick(T0 + 10)
        transactions = Transactions(orjson.dumps(DELTAS), _LATER)
        loop.step(transactions)
        assert _has_fired(transactions), "the engine does not work"
        for value in values:
            _firing_record(value, "c1")


def _state_key(value: bytes) -> bytes:
    """Return the key of a state, as a writer that lies would give it."""
    try:
        found = orjson.loads(value)
        return f"{found['rule']}/{fingerprint(found['rule'], found['group'])}".encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        return STATES[0][0]


def _has_fired(transactions: Transactions) -> bool:
    """Return whether the alert of the last delta was written."""
    alerts = [write.value or b"" for commit in transactions.commits for write in commit if write.topic == "alerts"]
    found = [one for one in map(orjson.loads, alerts) if one["labels"].get("subject_namespace") == "later"]
    return [(one["rule"], one["status"]) for one in found] == [("above", "firing")]


class Alerts(Reader):
    """The sinks of alerts: what `takes` accepts can be sent."""

    good = tuple(
        orjson.dumps({
            "id": "a", "fingerprint": "f", "status": status, "labels": {"a": "b"}, "annotations": {}, "rule": "r",
            "startsAt": stamp(T0), "endsAt": ends, "cluster": "c1",
        })
        for status, ends in (("firing", None), ("resolved", stamp(T0 + 5)))
    )  # fmt: skip

    def __call__(self, value: bytes) -> None:
        is_own_alert("c1", value)
        try:
            _is_alert(value)
        except ValueError:
            return
        sink = AlertmanagerSink(_Poster(), 60)  # type: ignore[arg-type]  # what it does of a poster
        try:
            sink.write([value])
        except RefusedError:
            return


class _Poster:
    def post(self, alerts: Sequence[dict[str, Any]]) -> None:
        orjson.dumps(alerts)

    def close(self) -> None: ...


class Dead(Reader):
    """`weir dead`: every letter is listed, and says whether it may be sent again."""

    good = (
        b"\n".join(value for _, value in headers_of(TOPICS.raw.name, 1, 77, "bad_header", "an error", b"c1/n1/r1")),
    )

    def __call__(self, value: bytes) -> None:
        names = (
            "reason",
            "topic",
            "partition",
            "offset",
            "error",
            "key",
            "original_bytes",
            "letter",
            "sha256",
            "x\x1b",
        )
        headers = tuple(zip(names, value.split(b"\n"), strict=False))
        letter = letter_of(Record(0, 1, value[:20], value, 0, headers))
        redriven = Redriven([letter])
        redriven.state(letter)
        assert isinstance(why_not(letter, redriven, TOPICS, {TOPICS.raw.name: 4}, again=False), str)
        assert all(text.isprintable() for text in letter.headers.values())
        assert letter.origin.isprintable()
