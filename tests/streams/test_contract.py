"""The documents for consumers say what the code does: schemas and AsyncAPI against structs, topics and real records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import jsonschema
import msgspec
import orjson
import pytest
import yaml
from prometheus_client import CollectorRegistry

from enrich.render.enricher import Enricher
from enrich.wire.address_interval import AddressInterval, OwnerRef, encode_interval
from enrich.wire.batch import EndpointRef, Header, PolicyRef, Reason
from enrich.wire.cuts import Cut, CutPart
from enrich.wire.in_force import PoliciesInForce, PolicyVersion
from enrich.wire.tally import KernelTally, NodeState, SpoolTally, Tally
from enrich.wire.topics import topics
from streams.kafka.record_columns import RecordColumns
from streams.matching import model
from streams.metrics.roles import EnrichMetrics
from streams.worker.inflight import InFlightTracker
from streams.worker.pending import PendingVerdicts
from streams.worker.pipeline import Pipeline
from tests.enrich.flows import make_cluster
from tests.kafka.batches import make_batch, make_ends, make_header, make_rows
from tests.schemas import ROOT, described, files, load, produced, validator

FOLDER = ROOT / "streams/schemas"
DOCUMENT: dict[str, Any] = yaml.safe_load((FOLDER / "asyncapi.yaml").read_text())
READ_BY_US = {"routes", "rules", "alerts"}
"""Schemas of files that people write for us, not of records."""


def test_a_condition_may_ask_for_every_reason() -> None:
    assert set(get_args(model.Reason)) == {reason.name.lower() for reason in Reason}


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_every_schema_is_one_and_says_what_it_is_about(path: Path) -> None:
    schema = orjson.loads(path.read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"]
    for name, part in schema.get("properties", {}).items():
        assert part.keys() & {"description", "$ref", "properties", "type", "const", "enum"}, name


# --- structs

TALLY = Tally(
    at=1, every=10.0, spool=SpoolTally(begin=0, next=7, published=6, removed={"refused": 1}),
    kernel=KernelTally(decided=(9, 9), written=7, waiting=1, cut={"logging_allowed": 1}, lost={"ring_full": 0},
                         ring=(7, 7), verdicts=7),
    state=NodeState(version="1.0", watch={"Pod": 1.0}, unenforced={"shop/web-0": "no veth"}, unenforced_pods=1,
                    capacity={"addresses": (1, 2)}, suspicious={"Namespace shop": "yes"}),
    in_force=(PoliciesInForce(change=1, epoch=2, switched=(3, 4), left_out=5,
                              policies=(PolicyVersion("NetworkPolicy", "shop", "web", "u", "0123456789abcdef"),)),),
)  # fmt: skip
"""A tally with every key."""


@pytest.mark.parametrize(("name", "struct"), [("batch", Header), ("endpoint", AddressInterval)])
def test_a_schema_has_the_keys_of_its_struct(name: str, struct: type) -> None:
    of_code = msgspec.json.schema(struct)
    of_code = {**of_code, **of_code["$defs"][struct.__name__]}
    assert set(described(load(name))) == set(described(plain(of_code)))
    assert set(load(name)["required"]) == set(of_code["required"])


def plain(schema: Any) -> Any:
    """A schema that msgspec made, without what may also be null."""
    if isinstance(schema, list):
        return [plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    given = schema.get("anyOf", ())
    if {"type": "null"} in given:
        (rest,) = [part for part in given if part != {"type": "null"}]
        schema = {**{key: value for key, value in schema.items() if key != "anyOf"}, **rest}
    return {key: plain(value) for key, value in schema.items()}


def test_what_is_written_is_what_the_schemas_say() -> None:
    header = make_header(
        7, 3, kept=[(7, 2), (10, 1)], removed=("spool_full", 7, 4), lost={"ring_full": (1, 2)},
        endpoints={"7": EndpointRef("shop", "web-0", "u")}, rules={"1": [PolicyRef("NetworkPolicy", "shop", "a", 0)]},
        tally=TALLY, ends=make_ends(make_rows(1)), ends_first=3, ends_removed={"refused": 2},
        ends_lost={"ring_full": (1, 2)},
    )  # fmt: skip
    found = orjson.loads(msgspec.json.encode(header))
    validator(load("batch"), closed=True).validate(found)
    assert set(produced(found, load("batch"))) == set(described(load("batch")))
    hold = AddressInterval(
        v=1, cluster="c", node="n", ip="10.0.0.1", uid="u", namespace="shop", pod="web-0", first=1, start=2, end=3,
        last=4, labels={"app": "web"}, owner=OwnerRef("ReplicaSet", "web-abc", "o"), ahead=5,
    )  # fmt: skip
    found = orjson.loads(encode_interval(hold))
    validator(load("endpoint"), closed=True).validate(found)
    assert set(produced(found, load("endpoint"))) | {".v"} == set(described(load("endpoint")))


# --- status


class Kept:
    """An output that has room for everything."""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    def offer(
        self, topic: str, key: bytes, value: bytes, timestamp_ms: int, on_delivery: Any, headers: Any = None
    ) -> bool:
        self.values.append(value)
        return True

    def offer_all(self, topic: str, outgoing: RecordColumns, deliveries: Sequence[Any], start: int) -> int:
        return len(deliveries)


def status_of(*values: bytes) -> list[dict[str, Any]]:
    """The status records of batches, and of batches that expired before them."""
    output = Kept()

    async def scenario() -> None:
        ledger = InFlightTracker(10**6, 10**9, asyncio.get_running_loop().call_soon_threadsafe, lambda *_: None)
        enricher = Enricher(make_cluster())
        pipeline = Pipeline(
            topics("p", 4), "c1", enricher, lambda _uid: "", output, EnrichMetrics(CollectorRegistry()), "w",
            PendingVerdicts(enricher, lambda: 1 << 62, 0, 10**6, time.time_ns),
        )  # fmt: skip
        await pipeline.report_expired(ledger.open(0, 0, 0, 0, lambda _: None), 3)
        await pipeline.take_over(ledger.open(0, 0, 0, 0, lambda _: None), None, None)
        for offset, value in enumerate(values):
            tracked = ledger.open(0, offset, 0, 0, lambda _: None)
            await pipeline.take([(tracked, value)])
            pipeline.finish(tracked)

    asyncio.run(scenario())
    return [orjson.loads(value) for value in output.values]


def test_every_status_record_fits_and_together_they_have_every_key() -> None:
    cut: dict[str, Any] = {
        "tally": TALLY,
        "cut": [Cut("limit", "denied", 40, 40, 1000, [CutPart("shop", "deny", 30)])],
        "ends_lost": {"ring_full": (1, 1)},
    }
    found = status_of(make_batch(0, 5), make_batch(9, 5, {"lost": {"ring_full": (3, 3)}}), make_batch(14, 0, cut))
    assert [one["type"] for one in found] == [
        "expired",
        "gap",
        "lost",
        "cut",
        "ends_lost",
        "heartbeat",
        "policies",
        "tally",
    ]
    for one in found:
        validator(load("status"), closed=True).validate(one)
    # tests/streams/alerts/test_engine_loop.py has the record of evicted groups, which the engine loop of alerts writes;
    # tests/kafka/test_routes.py that of a route's topic that cannot be made.
    elsewhere = {".groups", ".error"}
    assert {path for one in found for path in produced(one, load("status"))} | elsewhere == set(
        described(load("status"))
    )


# --- AsyncAPI


def test_every_topic_is_a_channel_as_it_is_made() -> None:
    made = {topic.name: topic for topic in topics("kubeweir", 32)}
    channels = {one["address"].replace("{prefix}", "kubeweir"): one for one in DOCUMENT["channels"].values()}
    assert channels.keys() == made.keys()
    for name, one in channels.items():
        kafka, topic = one["bindings"]["kafka"], made[name]
        assert kafka["partitions"] == topic.partitions
        wanted = {key: topic.config[key] for key in kafka["topicConfiguration"]}
        found = {
            key: ",".join(value) if isinstance(value, list) else str(value)
            for key, value in kafka["topicConfiguration"].items()
        }
        assert found == wanted
        assert {"retention.ms", "cleanup.policy"} <= found.keys()
        assert ("max.message.bytes" in found) == ("max.message.bytes" in topic.config)


def test_every_reference_leads_somewhere_and_every_schema_of_records_is_used() -> None:
    used: set[str] = set()

    def follow(part: Any) -> None:
        if isinstance(part, list):
            for item in part:
                follow(item)
        if isinstance(part, dict):
            for key, value in part.items():
                if key == "$ref":
                    used.add(target(value))
                follow(value)

    def target(reference: str) -> str:
        if reference.startswith("#/"):
            found: Any = DOCUMENT
            for step in reference[2:].split("/"):
                found = found[step]
            return reference
        assert (FOLDER / reference).is_file(), reference
        return Path(reference).name

    follow(DOCUMENT)
    records = {path.name for path in FOLDER.glob("*.schema.json") if path.name.partition(".")[0] not in READ_BY_US}
    assert {"flow.schema.json", "endpoint.schema.json"} | records <= used
