"""Routes to Kafka topics: the enricher as a process, on a real Apache Kafka."""

from __future__ import annotations

import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Message
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from enrich.wire.batch import encode_batch
from streams.forms import FORMS, converter
from tests.kafka.batches import make_batch, make_header, make_rows
from tests.kafka.site import Site, until
from tests.schemas import load, validator

pytestmark = pytest.mark.kafka


def write(site: Site, text: str) -> str:
    """The routes file; topics are named below the site's prefix."""
    path = site.folder / "routes" / "routes.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text("version: 1\nroutes:\n" + text.replace("PREFIX", site.prefix))
    return str(path)


def route(name: str, match: str, kafka: str) -> str:
    return f"  - name: {name}\n    match: {match}\n    outputs: [{{kafka: {kafka}}}]\n"


def flows(found: list[Message]) -> list[dict[str, Any]]:
    return [orjson.loads(line) for one in found for line in (one.value() or b"").split(b"\n")]


def ids(found: list[Message]) -> set[str]:
    return {flow["id"] for flow in flows(found)}


def test_topics_are_made_as_the_route_says_and_take_what_it_matches(site: Site) -> None:
    path = write(
        site,
        route(
            "lines",
            "{verdict: deny}",
            "{topic: PREFIX.lines, format: lines, compression: gzip, partitions: 3, retention: 7d}",
        )
        + route(
            "teams", "{direction: ingress}", "{topic: 'PREFIX.team.{namespace}', namespaces: [sh*], key: namespace}"
        )
        + route("others", "{}", "{topic: 'PREFIX.other.{namespace}', namespaces: [data]}"),
    )
    service = site.start_enrich(WEIR_ROUTES=path)
    for number in range(6):
        site.send(make_batch(number * 100, 100, denied=number % 2 == 1, ingress=number % 3 == 0))
    site.flush()
    lines = site.read("lines", lambda found: len(flows(found)) >= 300)
    assert ids(lines) == {f"r1-{number}" for number in range(600) if number // 100 % 2 == 1}
    assert len(lines) == 3, "one record a batch"
    assert {one.key() for one in lines} == {b"n1"}
    team = site.read("team.shop", lambda found: len(found) >= 200)
    assert ids(team) == {f"r1-{number}" for number in range(600) if number // 100 % 3 == 0}
    assert {one.key() for one in team} == {b"shop"}
    admin = AdminClient({"bootstrap.servers": site.broker})
    topics = admin.list_topics(timeout=120).topics
    assert len(topics[f"{site.prefix}.lines"].partitions) == 3
    assert f"{site.prefix}.other.shop" not in topics
    resource = ConfigResource(ResourceType.TOPIC, f"{site.prefix}.lines")
    assert admin.describe_configs([resource])[resource].result(120)["retention.ms"].value == str(7 * 86_400_000)
    routed = 'kubeweir_streams_routed_records_total{{outcome="{}",route="{}"}}'
    assert service.metric(routed.format("not_allowed", "others")) == 600
    assert service.metric(routed.format("routed", "teams")) == 200
    until(lambda: service.metric("kubeweir_streams_records_total") == 600 + 300 + 3 + 200 or None, "acknowledgements")
    assert service.stop() == 0


def test_kill_9_loses_nothing_in_any_topic(site: Site) -> None:
    path = write(
        site,
        route("all", "{}", "{topic: PREFIX.all, compression: zstd}")
        + route("lines", "{}", "{topic: PREFIX.lines, format: lines}"),
    )
    service = site.start_enrich(WEIR_ROUTES=path)
    for number in range(100):
        site.send(make_batch(number * 300, 300))
    site.flush()
    until(lambda: service.metric("kubeweir_streams_read_verdicts_total") > 600 or None, "some rows")
    for _ in range(2):
        service.process.send_signal(signal.SIGKILL)
        service.process.wait()
        service = site.start_enrich(WEIR_ROUTES=path)
    expected = {f"r1-{number}" for number in range(30_000)}
    for topic in ("flows", "all", "lines"):
        assert ids(site.read(topic, lambda found: len(ids(found)) >= 30_000)) == expected
    assert service.stop() == 0


def test_a_changed_file_is_taken_over_and_a_bad_one_is_told_and_changes_nothing(site: Site) -> None:
    path = write(site, route("one", "{}", "{topic: PREFIX.one}"))
    service = site.start_enrich(WEIR_ROUTES=path)
    assert service.get("/readyz")[0] == 200
    Path(path).write_text("version: 1\nroutes:\n  - name: one\n    match: {verdicts: deny}\n    outputs: []\n")
    line = service.wait_for("the routes file is refused; the last good one stays in force")
    assert line["problems"][0].startswith(f"{path}:4: routes[0].match.verdicts: there is no such field")
    status, text = service.get("/readyz")
    assert status == 503
    assert "routes.yaml:4: routes[0].match.verdicts" in text
    site.send(make_batch(0, 10))
    site.flush()
    assert len(ids(site.read("one", lambda found: len(found) >= 10))) == 10
    write(site, route("two", "{}", "{topic: PREFIX.two}"))
    service.wait_for("routes file applied")
    assert service.get("/readyz")[0] == 200
    site.send(make_batch(10, 10))
    site.flush()
    assert ids(site.read("two", lambda found: len(found) >= 10)) == {f"r1-{number}" for number in range(10, 20)}
    assert len(site.read("one", lambda found: len(found) >= 10)) == 10
    assert service.stop() == 0


def test_a_topic_that_cannot_be_made_stops_no_other_and_is_reported(site: Site) -> None:
    # Kafka refuses a name that differs from an existing one by a dot or an underscore only.
    admin = AdminClient({"bootstrap.servers": site.broker})
    for future in admin.create_topics([NewTopic(f"{site.prefix}.tenant_shop", 1)]).values():
        future.result(120)
    path = write(
        site,
        route("tenants", "{}", "{topic: 'PREFIX.tenant.{namespace}', namespaces: ['*']}")
        + route("good", "{}", "{topic: PREFIX.good}"),
    )
    service = site.start_enrich(WEIR_ROUTES=path)
    assert service.get("/readyz")[0] == 200
    site.send(make_batch(0, 10))
    site.flush()
    assert len(site.read_flows(10)) == 10
    assert len(ids(site.read("good", lambda found: len(found) >= 10))) == 10
    failed = 'kubeweir_streams_routed_records_total{outcome="topic_failed",route="tenants"}'
    until(lambda: service.metric(failed) == 10 or None, "the records without a topic")
    status, text = service.get("/readyz")
    assert status == 503
    assert f"topic {site.prefix}.tenant.shop" in text
    reports = [orjson.loads(one.value() or b"") for one in site.read("status", lambda found: len(found) >= 1)]
    (report,) = [one for one in reports if one["type"] == "route_failed"]
    assert report["reason"] == f"{site.prefix}.tenant.shop"
    validator(load("status"), closed=True).validate(report)
    # A route that is mended is ready again.
    write(site, route("good", "{}", "{topic: PREFIX.good}"))
    until(lambda: service.get("/readyz")[0] == 200 or None, "readiness")
    assert service.stop() == 0


def test_topics_take_other_forms_and_what_kafka_refuses_of_them_stops_nothing(site: Site) -> None:
    admin = AdminClient({"bootstrap.servers": site.broker})
    names = [f"{site.prefix}.{form}" for form in FORMS]
    topics = [NewTopic(name, 1, config={"message.timestamp.before.max.ms": "3600000"}) for name in names]
    for future in admin.create_topics(topics).values():
        future.result(120)
    path = write(site, "".join(route(form, "{}", f"{{topic: PREFIX.{form}, form: {form}}}") for form in FORMS))
    service = site.start_enrich(WEIR_ROUTES=path)
    verdicts = make_rows(20)
    verdicts["time_ns"][::2] -= 7_200_000_000_000
    site.send(encode_batch(make_header(0, 20), verdicts))
    site.send(make_batch(20, 5))
    site.flush()
    expected = {flow["id"]: flow for flow in site.read_flows(25)}
    fresh = {f"r1-{number}" for number in [*range(1, 20, 2), *range(20, 25)]}
    for form in FORMS:
        convert = converter(form)
        assert convert is not None
        found = site.read(form, lambda found: len(found) >= len(fresh))
        made = {convert(orjson.dumps(expected[one])): expected[one] for one in fresh}
        assert {one.value() for one in found} == made.keys()
        for one in found:
            flow = made[one.value() or b""]
            assert one.key() == b"shop/web-0"
            assert one.timestamp()[1] == int(
                datetime.fromisoformat(f"{flow['timestamp'][:23]}+00:00").timestamp() * 1000
            )
    assert len(site.read("dead", lambda found: len(found) >= 10 * len(FORMS))) == 10 * len(FORMS)
    assert service.stop() == 0


def test_a_wrong_file_at_the_start_ends_with_2(site: Site) -> None:
    path = write(site, route("one", "{}", "{topic: PREFIX.flows}"))
    service = site.start("enrich", WEIR_ROUTES=path)
    assert service.process.wait(240) == 2
    assert f"{path}:5: routes[0].outputs[0].kafka.topic: {site.prefix}.flows is one" in service.log.read_text()
