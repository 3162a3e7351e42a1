"""The page of the role web, in a real browser, on real topics."""

from __future__ import annotations

import http.client
import itertools
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
import yaml
from confluent_kafka import Producer
from playwright.sync_api import Browser, Page, expect

from enrich.wire.address_interval import AddressInterval, OwnerRef, encode_interval
from enrich.wire.flow import Flow, NamedPolicy
from enrich.wire.tally import KernelTally, NodeState, Tally
from streams.cli.custody_sums import Finished, TallyRecord
from streams.kafka.topics import prepare_topics
from tests.enrich.history.journals import CLUSTER, at
from tests.kafka.browsing import PATIENCE_MS, Tab, close
from tests.kafka.pasts import write_past
from tests.kafka.shop import JOURNAL
from tests.kafka.site import Service, Site
from tests.streams.web.records import make_end, make_flow

pytestmark = pytest.mark.kafka

HOSTILE = '"><img src=x onerror=window.hacked=1><script>window.hacked=1</script>\u202e'
expect.set_options(timeout=PATIENCE_MS)


class Pages:
    """Topics with a past, the role web on them, and tabs."""

    def __init__(self, site: Site, browser: Browser) -> None:
        self.site, self.browser = site, browser
        self.topics = write_past(site, JOURNAL, [])
        self.producer = Producer(site.connection)
        for index, name in enumerate(("web", "db")):
            one = AddressInterval(
                cluster=CLUSTER, node="n1", ip=f"10.0.0.{index + 1}", uid=name, namespace="shop", pod=f"{name}-1",
                first=at(1), start=at(1), labels={"app": name}, owner=OwnerRef("ReplicaSet", f"{name}-7d"),
            )  # fmt: skip
            self.producer.produce(self.topics.endpoints.name, encode_interval(one), one.key)
        self.numbers = itertools.count()
        self.web: Service = site.start("web", "--alone", WEIR_WEB="127.0.0.1:0", WEIR_CLUSTER=CLUSTER)
        self.url = self.web.wait_for("the page is served")["url"]

    def send(self, count: int = 1, **fields: Any) -> list[str]:
        """Write records of now; return their ids."""
        ids = []
        for _ in range(count):
            number = next(self.numbers)
            when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
            flow = make_flow(number, **{"timestamp": when, "last_timestamp": when, "cluster": CLUSTER, **fields})
            self.producer.produce(self.topics.flows.name, msgspec.json.encode(flow), f"shop/{number}".encode())
            ids.append(flow.id)
        assert self.producer.flush(120) == 0
        return ids

    def open(self, address: str = "", **context: Any) -> Tab:
        """Open the page in a tab of its own, and wait until it is live."""
        tab = Tab(self.browser.new_context(**{"viewport": {"width": 1360, "height": 860}, **context}))
        tab.page.goto(self.url + address)
        return tab


@pytest.fixture(scope="module")
def pages(broker: str, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    site = Site(broker, f"p{time.monotonic_ns()}", tmp_path_factory.mktemp("page"))
    made = Pages(site, browser)
    yield made
    site.end()


def arrive(page: Page) -> None:
    expect(page.locator("#state")).to_have_text("Live")


def shown(page: Page, record: str) -> Any:
    return page.locator(f'#records tr[data-id="{record}"]')


def test_records_appear_as_they_arrive_and_denies_come_first(pages: Pages) -> None:
    (before,) = pages.send()
    tab = pages.open()
    page = tab.page
    arrive(page)
    expect(shown(page, before)).to_be_visible()
    (denied,) = pages.send(disposition="deny", reason="default_deny")
    (allowed,) = pages.send()
    expect(shown(page, allowed)).to_contain_text("shop/web-0")
    expect(page.locator("#records tbody tr").first).to_have_attribute("data-id", denied)
    page.get_by_label("Denied first").uncheck()
    expect(page.locator("#records tbody tr").first).to_have_attribute("data-id", allowed)
    page.get_by_role("button", name="Pause").click()
    (later,) = pages.send()
    expect(page.locator("#notice")).to_contain_text("1 new records wait")
    assert shown(page, later).count() == 0
    page.get_by_role("button", name="Go on").click()
    expect(shown(page, later)).to_be_visible()
    assert tab.violations() == []
    close(tab)


def test_the_address_is_the_view(pages: Pages) -> None:
    allowed, denied = pages.send()[0], pages.send(disposition="deny")[0]
    tab = pages.open("?verdict=deny&not.port=53")
    page = tab.page
    arrive(page)
    expect(shown(page, denied)).to_be_visible()
    assert shown(page, allowed).count() == 0
    expect(page.get_by_role("button", name="Denied", exact=True)).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Remove the filter not port 53").click()
    page.get_by_label("Field").select_option("namespace")
    page.get_by_label("Value").fill("nowhere")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"\?verdict=deny&namespace=nowhere$"))
    expect(page.locator("#empty")).to_contain_text("No record fits")
    assert tab.violations() == []
    page.go_back()
    page.go_back()
    expect(page).to_have_url(re.compile("not.port=53"))
    expect(shown(page, denied)).to_be_visible()
    close(tab)


@pytest.mark.parametrize(
    ("address", "where", "said"),
    [
        ("?port=http", "#value-error", "must be a port"),
        ("?not.reason=defualt_deny", "#value-error", "did you mean default_deny"),
        ("?since=2999-01-01", "#since-error", "future"),
        ("?since=1h&until=2h", "#since-error", "not before the end"),
    ],
)
def test_a_mistake_is_said_at_its_field(pages: Pages, address: str, where: str, said: str) -> None:
    tab = pages.open(address)
    expect(tab.page.locator(where)).to_contain_text(said)
    assert tab.violations() == []
    assert all("400" in error for error in tab.errors)


def send_denied(pages: Pages, number: int, port: int) -> Flow:
    """Write a record of a time when the policy of db let nobody in. Today it lets web in, by 5432."""
    end = {"workload_kind": "Deployment"}
    when = datetime.fromtimestamp(at(500) / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.000000000Z")
    flow = make_flow(
        number, disposition="deny", reason="default_deny", policies=(), timestamp=when, last_timestamp=when,
        isolated_by=(NamedPolicy(kind="NetworkPolicy", namespace="shop", name="db"),), cluster=CLUSTER,
        src=msgspec.structs.replace(make_end("shop", "web-1"), pod_uid="web", workload_name="web", **end),
        dest=msgspec.structs.replace(make_end("shop", "db-1"), pod_uid="db", workload_name="db", **end),
    )  # fmt: skip
    connection = msgspec.structs.replace(flow.connection, src_ip="10.0.0.1", dest_ip="10.0.0.2", dest_port=port)
    value = msgspec.json.encode(msgspec.structs.replace(flow, connection=connection))
    pages.producer.produce(pages.topics.flows.name, value, b"shop/db-1", timestamp=at(500) // 1_000_000)
    assert pages.producer.flush(120) == 0
    return flow


def test_a_record_opens_with_why(pages: Pages) -> None:
    """The policies of the record's time are asked, not those of today."""
    flow = send_denied(pages, 900_000, 5432)
    tab = pages.open(f"?id={flow.id}")
    page = tab.page
    shown(page, flow.id).click()
    panel = page.locator("#detail")
    expect(panel.locator(".explained")).to_contain_text("record r1-900000: deny")
    expect(panel.locator(".explained")).to_contain_text("today it would be allowed")
    expect(panel.locator(".suggestion")).to_contain_text("nothing needs to be added")
    expect(panel).to_contain_text("Deployment/db")
    expect(panel.locator(".command")).to_contain_text(f"weir explain '{flow.id}' --since")
    panel.get_by_text("The whole record").click()
    record = orjson.loads(panel.locator(".json").inner_text())
    assert record["id"] == flow.id
    assert tab.violations() == []
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(shown(page, flow.id).get_by_role("button")).to_be_focused()
    close(tab)


def test_a_denied_record_says_what_would_allow_it(pages: Pages) -> None:
    flow = send_denied(pages, 900_001, 9187)
    tab = pages.open(f"?id={flow.id}")
    shown(tab.page, flow.id).click()
    part = tab.page.locator("#detail .suggestion")
    expect(part).to_contain_text("this NetworkPolicy would allow it")
    made = yaml.safe_load(part.get_by_label("YAML").inner_text())
    assert made["spec"] == {
        "podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}],
                     "ports": [{"protocol": "TCP", "port": 9187}]}],
    }  # fmt: skip
    expect(part.get_by_role("button", name="Copy")).to_be_visible()
    assert tab.violations() == []
    close(tab)


def test_names_from_the_cluster_never_run_as_markup(pages: Pages) -> None:
    hostile = msgspec.structs.replace(make_end("shop", "web-0"), pod_name=HOSTILE, labels={HOSTILE: HOSTILE})
    policy = NamedPolicy(kind=HOSTILE, namespace=HOSTILE, name=HOSTILE)
    (record,) = pages.send(src=hostile, dest=hostile, policies=(policy,), reason=HOSTILE, disposition=HOSTILE,
                           node_name=HOSTILE, id="r$(hacked)-1")  # fmt: skip
    tab = pages.open(f"?not.pod={HOSTILE.replace('<', '%3C')}".replace("#", "%23"))
    expect(tab.page.locator("#value-error")).to_contain_text("no pod has this name")
    assert tab.page.evaluate("() => window.hacked") is None
    tab.errors.clear()
    tab.page.goto(pages.url)
    page = tab.page
    shown(page, record).click()
    expect(page.locator("#detail h2")).to_contain_text("<script>window.hacked=1</script>")
    expect(page.locator("#detail .explained")).to_have_attribute("aria-busy", "true")
    expect(page.locator("#detail .explained")).not_to_have_attribute("aria-busy", "true")
    assert "\u202e" not in page.locator("#detail h2").inner_text()
    # Nothing to paste into a shell is made of it.
    expect(page.locator("#detail .command")).to_have_count(0)
    assert page.evaluate("() => window.hacked") is None
    assert page.evaluate("() => document.querySelectorAll('#records img, #detail img, #records script').length") == 0
    close(tab)


def test_the_page_lets_no_text_become_a_script(pages: Pages) -> None:
    tab = pages.open()
    arrive(tab.page)
    for attempt in (
        "document.body.innerHTML = '<b>x</b>'",
        "document.body.insertAdjacentHTML('beforeend', '<b>x</b>')",
        "setTimeout('window.hacked = 1', 0)",
    ):
        with pytest.raises(Exception, match="Trusted"):
            tab.page.evaluate(f"() => {{ {attempt} }}")
    assert tab.page.evaluate("() => window.hacked") is None
    tab.page.context.close()


def test_what_no_eye_follows_is_sampled_and_said(pages: Pages) -> None:
    tab = pages.open("?verdict=audit")
    page = tab.page
    arrive(page)
    pages.send(2000, disposition="audit")
    expect(page.locator("#notice")).to_contain_text("Sampled: about")
    # The lines are drawn later than the notice.
    expect(page.locator("#records tbody tr")).not_to_have_count(0)
    assert page.locator("#records tbody tr").count() <= 200
    close(tab)


def test_a_live_view_goes_on_saying_that_its_past_is_missing(pages: Pages) -> None:
    tab = Tab(pages.browser.new_context())
    page = tab.page
    page.route(re.compile("/api/flows"), lambda route: route.fulfill(status=503, json={"error": "Kafka is slow"}))
    page.goto(pages.url)
    arrive(page)
    (record,) = pages.send()
    expect(shown(page, record)).to_be_visible()
    expect(page.locator("#notice")).to_contain_text("Earlier records are missing here: Kafka is slow")
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 390])
def test_it_fits_screens_and_schemes(pages: Pages, scheme: str, width: int) -> None:
    """`make pictures` keeps what is seen here."""
    tab = pages.open("?node=n1", viewport={"width": width, "height": 860}, color_scheme=scheme)
    page = tab.page
    arrive(page)
    for source, destination, verdict, reason in (
        ("shop", "payments", "allow", "policy"), ("shop", "payments", "deny", "default_deny"),
        ("shop", "", "allow", "policy"), ("monitoring", "shop", "allow", "policy"),
        ("", "shop", "deny", "default_deny"), ("team-a", "shop", "audit", "policy"),
    ):  # fmt: skip
        (record,) = pages.send(source=source, destination=destination, disposition=verdict, reason=reason)
    expect(shown(page, record)).to_be_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert tab.violations() == []
    tab.picture(f"live-{scheme}-{width}")
    shown(page, record).get_by_role("button").press("Enter")
    expect(page.locator("#detail .explained")).not_to_have_attribute("aria-busy", "true")
    assert tab.violations() == []
    tab.picture(f"record-{scheme}-{width}")
    close(tab)


def write_tallies(pages: Pages) -> None:
    """Write what two nodes decided: on n1 all is in the log, and on n2 a gap, and a pod without its policy."""
    names = pages.topics
    made = [names.status, names.dead, names.checkpoints, names.raw]
    assert prepare_topics(pages.site.connection, made, 0, threading.Event())
    kernel = KernelTally(decided=(100, 100), written=100, waiting=0, ring=(100, 100), verdicts=100)
    state = NodeState(version="1.2.3", watch={"Pod": 7.0}, capacity={"policies": (10, 1000)})
    ill = msgspec.structs.replace(
        state, unenforced={f"shop/{HOSTILE}": HOSTILE}, unenforced_pods=1, capacity={"policies": (990, 1000)}
    )
    for node, arrived, of_node in (("n1", 100, state), ("n2", 93, ill)):
        counts = {"read": arrived, "enriched": arrived, "written": arrived, "unlogged": 0, "dead": 0, "refused": 0}
        one = TallyRecord(
            type="tally", cluster=CLUSTER, node=node, ring=f"ring-{node}", next=100, worker="w1", version="1.2.3",
            finished=Finished(begin=0, **counts, missing={"gap": 100 - arrived} if arrived < 100 else {}),
            tally=Tally(at=time.time_ns(), every=600, kernel=kernel, state=of_node),
        )  # fmt: skip
        pages.producer.produce(names.status.name, msgspec.json.encode(one), node.encode())
    assert pages.producer.flush(120) == 0


def test_health_says_what_needs_somebody_and_what_to_do(pages: Pages) -> None:
    """Before workers have run there is no topic to ask, and it says so."""
    tab = pages.open("health")
    page = tab.page
    expect(page.locator("#kafka")).to_contain_text("there is no topic")
    tab.errors.clear()
    write_tallies(pages)
    page.goto(f"{pages.url}health?since=15m")
    expect(page.locator(".verdict")).to_contain_text("Not all is accounted for")
    todo = page.locator(".findings")
    expect(todo).to_contain_text("7 verdicts did not arrive")
    expect(todo).to_contain_text("weir dead list")
    expect(todo).to_contain_text("990 of 1,000 entries")
    expect(todo).to_contain_text("Pods whose policy is not enforced: 1")
    expect(todo).to_contain_text("<script>window.hacked=1</script>")
    expect(todo.locator("li").filter(has_text="n1")).to_have_count(0)
    cells = page.get_by_role("row").filter(has_text="n2").get_by_role("cell")
    expect(cells.nth(4)).to_have_text("7")
    assert page.evaluate("() => window.hacked") is None
    assert page.evaluate("() => document.querySelectorAll('#report img, #report script').length") == 0
    assert tab.violations() == []
    tab.picture("health-light-1360")
    page.get_by_role("link", name="Live").click()
    arrive(page)
    page.go_back()
    expect(page.get_by_label("Time")).to_have_value("15m")
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 860})
    expect(page.locator(".verdict")).to_be_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert tab.violations() == []
    tab.picture("health-dark-390")
    page.goto(f"{pages.url}health?since=1y")
    expect(page.locator("#kafka")).to_contain_text("since must be one of")
    tab.errors.clear()
    close(tab)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_foreign_pages_are_refused(pages: Pages, headers: dict[str, str], status: int) -> None:
    host, port = pages.url.removeprefix("http://").rstrip("/").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=240)
    connection.request("GET", "/api/flows", headers=headers)
    answer = connection.getresponse()
    assert answer.status == status
    assert "default-src 'self'" in (answer.getheader("Content-Security-Policy") or "")
    connection.close()


def test_the_role_has_health_and_metrics(pages: Pages) -> None:
    assert pages.web.get("/healthz", "web")[0] == 200
    assert pages.web.get("/readyz", "web") == (200, "ok\n")
    assert "kubeweir_web_live_views" in pages.web.get("/metrics", "web")[1]


def test_without_kafka_the_page_says_so(pages: Pages, tmp_path: Path) -> None:
    site = Site("127.0.0.1:1", "nothing", tmp_path)
    web = site.start("web", "--alone", WEIR_WEB="127.0.0.1:0", WEIR_CLUSTER=CLUSTER)
    tab = Tab(pages.browser.new_context())
    tab.page.goto(web.wait_for("the page is served")["url"])
    expect(tab.page.locator("#kafka")).to_contain_text("Kafka has not answered since")
    expect(tab.page.locator("#state")).to_have_text("Kafka away")
    assert tab.violations() == []
    tab.page.context.close()
    assert web.stop() == 0
    site.end()
