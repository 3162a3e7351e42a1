"""The alerts that fire, on the page, in a real browser: by the real role alerts on real topics."""

from __future__ import annotations

import re
import signal
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer
from playwright.sync_api import Browser, expect

from tests.enrich.history.journals import CLUSTER
from tests.kafka.browsing import PATIENCE_MS, Tab, close
from tests.kafka.site import Site, until
from tests.kafka.test_alerts import ALL, start, write
from tests.kafka.test_page import HOSTILE
from tests.streams.web.records import make_end, make_flow

pytestmark = pytest.mark.kafka
expect.set_options(timeout=PATIENCE_MS)

RULE = {
    "name": "burst", "group_by": ["subject.namespace", "subject.workload", "node"], "severity": "critical",
    "above": {"threshold": 5, "window": "10m"}, "resolve_after": "2s",
    "annotations": {"summary": "{{ subject.workload }} was denied {{ count }} times", "description": "{{ example }}"},
}  # fmt: skip


def send(site: Site, first: int, count: int, workload: str) -> None:
    """Write denies of one workload, as the enricher would."""
    producer = Producer(site.connection)
    for number in range(first, first + count):
        when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        end = msgspec.structs.replace(make_end("shop", "web-0"), workload_kind="Deployment", workload_name=workload)
        flow = make_flow(number, disposition="deny", reason="default_deny", dest=end, cluster=CLUSTER, timestamp=when,
                         last_timestamp=when)  # fmt: skip
        producer.produce(f"{site.prefix}.flows.denied", msgspec.json.encode(flow), b"shop/web-0")
    assert producer.flush(120) == 0


def shown(page: Any, text: str) -> Any:
    return page.locator("#firing li").filter(has_text=text)


def test_what_fires_is_shown_while_it_fires(site: Site, browser: Browser) -> None:
    web = site.start("web", "--alone", WEIR_WEB="127.0.0.1:0", WEIR_CLUSTER=CLUSTER)
    url = web.wait_for("the page is served")["url"]
    tab = Tab(browser.new_context(viewport={"width": 1360, "height": 860}))
    page = tab.page
    page.goto(f"{url}health")
    expect(page.locator("#firing")).to_contain_text("The role alerts has never run on these topics")
    assert tab.violations() == []

    path = write(site, {**RULE, "resolve_after": "1h"}, disable=ALL)
    service = start(site, WEIR_ALERTS=path, WEIR_CLUSTER=CLUSTER)
    send(site, 0, 5, "api")
    send(site, 5, 5, HOSTILE)
    firing = 'kubeweir_streams_alerts_firing{rule="burst"} 2.0'
    until(lambda: firing in service.get("/metrics", "alerts")[1], "what fires")
    # The page keeps an answer for some seconds, and asks again by itself.
    expect(page.locator("#alerts-title")).to_have_text("Alerts that fire (2)")
    expect(shown(page, "Deployment/api was denied 5 times")).to_have_count(1)
    expect(shown(page, "<script>window.hacked=1</script>")).to_have_count(1)
    expect(page.locator("#firing")).not_to_contain_text("role alerts")
    expect(page.locator("#state")).to_contain_text("to look at")
    assert page.evaluate("() => window.hacked") is None
    assert page.evaluate("() => document.querySelectorAll('#alerts img, #alerts script').length") == 0
    assert "\u202e" not in page.locator("#firing").inner_text()
    assert tab.violations() == []
    tab.picture("alerts-light-1360")
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 860})
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert tab.violations() == []
    tab.picture("alerts-dark-390")

    # A killed worker stays a member of its group for the session timeout.
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()
    expect(page.locator("#firing")).to_contain_text("The role alerts does not run")
    expect(page.locator("#alerts-title")).to_have_text("Alerts that fire (2)")
    # What was counted is not enough any more, so that it is quiet.
    write(site, {**RULE, "above": {"threshold": 1000, "window": "10m"}}, disable=ALL)
    start(site, WEIR_ALERTS=path, WEIR_CLUSTER=CLUSTER)
    expect(page.locator("#alerts-title")).to_have_text("Alerts that fire (0)", timeout=4 * PATIENCE_MS)
    expect(page.locator("#firing")).to_contain_text("None that you may see")
    tab.errors[:] = [one for one in tab.errors if "503" not in one]  # of what weir status reads, no topic is here
    close(tab)


def test_without_kafka_it_is_said_that_nothing_is_known(site: Site, browser: Browser) -> None:
    away = Site("127.0.0.1:1", "nothing", site.folder)
    web = away.start("web", "--alone", WEIR_WEB="127.0.0.1:0", WEIR_CLUSTER=CLUSTER)
    tab = Tab(browser.new_context())
    tab.page.goto(f"{web.wait_for('the page is served')['url']}health")
    expect(tab.page.locator("#firing")).to_contain_text(re.compile("What fires is not known: Kafka cannot be reached"))
    assert tab.violations() == []
    tab.page.context.close()
    away.end()
