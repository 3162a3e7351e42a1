"""The role `alerts` after a kill, with as many denies to read back as it ever reads: no notification comes twice or
beyond the bounds, although alerts fire, and memory and time are bounded."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from confluent_kafka import Consumer, TopicPartition

from streams.alerts.count_loop import _DEDUPLICATION_RECORDS
from tests.kafka.hook import Hook
from tests.kafka.site import Service, Site, until
from tests.kafka.test_alerts import ALL, send, start, write
from tests.kafka.test_inflating_records import peak_mib

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]

DENIES, PORTS, FIRING = 10_000, 1_000, 20
RULE = {"name": "ports", "group_by": ["port"], "above": {"threshold": 10, "window": "30m"}, "resolve_after": "1h"}
BATCH = 1_000
AGE_S = 300
"""Older than the minute that is read back for its time, so that only the number of records matters."""


def send_denies(site: Site, first: int, first_port: int) -> None:
    """Send 10,000 denies of one pod, ten to each of a thousand ports."""
    for number in range(first, first + DENIES, BATCH):
        ports = first_port + np.arange(number, number + BATCH) % PORTS
        send(site, number, BATCH, destination_port=ports, age_s=AGE_S)


def wait_for_count(service: Service, what: str, number: int) -> None:
    line = f'kubeweir_streams_alerts_counted_total{{what="{what}"}} {float(number)}'
    until(lambda: line in service.get("/metrics", "alerts")[1] or None, lambda: f"{line}: {counts(service)}")


def counts(service: Service) -> list[str]:
    return [line for line in service.get("/metrics", "alerts")[1].splitlines() if "counted_total{" in line]


def has_committed(site: Site) -> bool:
    """Whether the webhook's group has committed every alert: what is not committed comes again after a kill."""
    ends: dict[int, int] = {}
    for one in site.read("alerts", lambda found: len(found) > FIRING):
        ends[one.partition()] = max(one.offset() + 1, ends.get(one.partition(), 0))
    settings = {**site.connection, "group.id": f"{site.prefix}.c1.alerts.to.hook"}
    consumer = Consumer(settings)
    try:
        places = consumer.committed([TopicPartition(f"{site.prefix}.alerts", number) for number in ends], 120)
    finally:
        consumer.close()
    return all(place.offset >= ends[place.partition] for place in places)


def notifications(hook: Hook) -> list[tuple[str, str]]:
    return sorted((one["id"], one["status"]) for one in hook.alerts)


def test_denies_read_back_after_a_kill_notify_nobody_again(site: Site, hook: Hook) -> None:
    assert DENIES == _DEDUPLICATION_RECORDS
    path = write(site, RULE, outputs=({"name": "hook", "webhook": {"url": hook.url}},), disable=ALL)
    site.start_enrich()
    service = start(site, WEIR_ALERTS=path, WEIR_ALERT_FIRING=str(FIRING))
    send_denies(site, 0, 1)
    wait_for_count(service, "records", DENIES)
    until(lambda: len(hook.alerts) > FIRING or None, lambda: f"the digest: {len(hook.alerts)} alerts")
    sent = notifications(hook)
    assert [status for _, status in sent] == ["firing"] * (FIRING + 1)
    until(lambda: has_committed(site) or None, "the commit of what was delivered")
    peak = peak_mib(service)

    for turn in range(2):
        service.process.send_signal(signal.SIGKILL)
        service.process.wait()
        service = start(site, WEIR_ALERTS=path, WEIR_ALERT_FIRING=str(FIRING))
        service.wait_for("alert partitions assigned", firing=FIRING + 1)
        # The enricher repeats all of them, and then there are as many new ones, of other groups.
        send_denies(site, 0 if turn == 0 else DENIES, 1 + turn * PORTS)
        wait_for_count(service, "records", DENIES)
        if turn == 0:
            wait_for_count(service, "repeats", DENIES)
        else:
            assert 'what="repeats"' not in "".join(counts(service))
        firing = f'kubeweir_streams_alerts_firing{{rule="ports"}} {float(FIRING + 1)}'
        until(lambda: firing in service.get("/metrics", "alerts")[1] or None, "what fires")  # noqa: B023 - called here
        assert notifications(hook) == sent
        assert peak_mib(service) <= peak + 64
    assert service.stop() == 0
