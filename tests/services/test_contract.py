"""Every record on every topic of the running services matches the published schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from confluent_kafka import Message

from tests.kafka.site import until
from tests.schemas import ROOT, load, validator
from tests.services.conftest import Running

pytestmark = pytest.mark.e2e

ASYNCAPI = ROOT / "streams/schemas/asyncapi.yaml"


def channel(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(ASYNCAPI.read_text())
    made: dict[str, Any] = document["channels"][name]
    return made


def read(running: Running, name: str, enough: int = 1) -> list[Message]:
    """Return the records on a channel's topic."""
    topic = channel(name)["address"].replace("{prefix}.", "")
    return running.site.read(topic, lambda found: len(found) >= enough)


def schema_of(name: str) -> dict[str, Any]:
    """Return the schema of a channel's only message."""
    document = yaml.safe_load(ASYNCAPI.read_text())
    (reference,) = channel(name)["messages"].values()
    message = document["components"]["messages"][reference["$ref"].rpartition("/")[2]]
    return load(Path(message["payload"]["schema"]["$ref"]).name.partition(".")[0])


def test_real_records_are_as_the_documents_say(running: Running) -> None:
    running.send()
    running.site.send(b"no batch")
    running.site.flush()
    flows = [orjson.loads(one.value() or b"") for one in read(running, "flows", 3)]
    denied = [orjson.loads(one.value() or b"") for one in read(running, "denied")]
    for flow in flows + denied:
        validator(schema_of("flows"), closed=True).validate(flow)
    assert {flow["id"] for flow in denied} <= {flow["id"] for flow in flows}
    assert {flow["disposition"] for flow in denied} == {"deny"}
    for one in read(running, "flows", 3):
        flow = orjson.loads(one.value() or b"")
        local = flow["dest" if flow["connection"]["direction"] == "ingress" else "src"]
        assert one.key() == f"{local['namespace']}/{local['pod_name']}".encode()
    for one in read(running, "raw"):
        if one.value() != b"no batch":
            header = orjson.loads((one.value() or b"").partition(b"\n")[0])
            validator(load("batch"), closed=True).validate(header)
            assert one.key() == f"{header['cluster']}/{header['node']}/{header['ring']}".encode()
    holds = read(running, "endpoints", 4)
    for one in holds:
        hold = orjson.loads(one.value() or b"")
        validator(schema_of("endpoints"), closed=True).validate(hold)
        assert one.key() == f"{hold['cluster']}/{hold['node']}/{hold['ip']}/{hold['uid']}".encode()
    (dead,) = read(running, "dead")
    described = yaml.safe_load(ASYNCAPI.read_text())["components"]["messages"]["deadLetter"]["headers"]
    headers = {name: (value or b"").decode() for name, value in dead.headers() or []}
    validator(described, closed=True).validate(headers)
    assert (dead.key() or b"").decode() == f"{headers['topic']}/{headers['partition']}/{headers['offset']}"
    # A probe without traffic says that it is alive, after a while.
    for one in until(lambda: read(running, "status") or None, "a word of the probe"):
        validator(schema_of("status"), closed=True).validate(orjson.loads(one.value() or b""))
