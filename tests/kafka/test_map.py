"""The view Map of the page, in a real browser, on real topics: what it shows, and to whom."""

from __future__ import annotations

import random
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pytest
from confluent_kafka import Producer
from playwright.sync_api import Browser, Page, expect

from enrich.runtime.token_gate import ALLOWED
from enrich.wire.pair import PairEnd, PairKey
from enrich.wire.pair_place import counts_key, names_key
from enrich.wire.pair_records import CHUNK, CountsHeader, Names, encode_counts, encode_names
from enrich.wire.references import PolicyRef
from streams.cli.kafka_options import read_settings
from streams.observing.observe import Window
from streams.web import map_question
from streams.web.map_question import MapQuestion, TrafficMap
from streams.web.query import QueryError
from streams.web.viewers import Everybody
from tests.enrich.history.journals import CLUSTER
from tests.kafka.browsing import PATIENCE_MS, Tab, close
from tests.kafka.pasts import HOUR, write_past
from tests.kafka.shop import JOURNAL
from tests.kafka.site import Site

pytestmark = pytest.mark.kafka

expect.set_options(timeout=PATIENCE_MS)
MANY_HOUR = HOUR - 15
"""Outside the windows of the other tests."""
MARKUP = "Deployment/<img/src=x/onerror=window.hacked=1>"
RULE = PolicyRef(kind="NetworkPolicy", namespace="shop", name="web-allow-api", rule=0)


def workload(namespace: str, name: str) -> PairEnd:
    return PairEnd(profile="0123456789abcdef", namespace=namespace, workload=f"Deployment/{name}")


def key(subject: PairEnd, peer: PairEnd, **fields: Any) -> PairKey:
    given = {"direction": "egress", "protocol": 6, "port": 443, "verdict": "allow", "reason": "policy", **fields}
    return PairKey(subject=subject, peer=peer, **given)


WEB, API, BANK, SECRET = workload("shop", "web"), workload("shop", "api"), workload("bank", "db"), workload("x9", "s9")
OUTSIDE = PairEnd(block="198.51.100.7/32")
PAIRS = [
    (key(WEB, API, policies=(RULE,)), 40),
    (key(API, WEB, direction="ingress", port=8080), 5),
    (key(API, BANK, verdict="deny", reason="default_deny", port=5432), 7),
    (key(WEB, OUTSIDE), 3),
    (key(msgspec.structs.replace(WEB, workload=MARKUP), OUTSIDE, verdict="audit"), 2),
    (key(SECRET, workload("x9", "other")), 9),
]

EDGES = len(PAIRS) - 1
"""A connection that both ends decided about is one."""


def write_many(site: Site, pairs: Sequence[PairKey], cluster: str, hour: int) -> None:
    """Write pairs of an hour, with one verdict each, in chunks as workers do."""
    producer, segment = Producer(site.connection), secrets.token_hex(4)
    topic = f"{site.prefix}.pairs"
    for chunk, begin in enumerate(range(0, len(pairs), CHUNK)):
        part = pairs[begin : begin + CHUNK]
        named = Names(cluster=cluster, segment=segment, chunk=chunk, pairs=[(one, ()) for one in part])
        producer.produce(topic, encode_names(named), names_key(cluster, segment, chunk))
        header = CountsHeader(cluster=cluster, segment=segment, chunk=chunk, hour=hour, pairs=len(part))
        ones = np.ones(len(part), "u8")
        columns = {"place": np.arange(len(part)), "verdicts": ones, "packets": ones, "first": ones, "last": ones}
        producer.produce(topic, encode_counts(header, columns), counts_key(cluster, segment, hour, chunk))
    assert producer.flush(120) == 0


def iso(hour: float) -> str:
    return f"{datetime.fromtimestamp(hour * 3600, UTC):%Y-%m-%dT%H:%M}Z"


class Maps:
    """Topics with pairs, the role web on them, and tabs."""

    def __init__(self, site: Site, browser: Browser) -> None:
        self.site, self.browser = site, browser
        write_past(site, JOURNAL, PAIRS)
        web = site.start("web", "--alone", WEIR_WEB="127.0.0.1:0", WEIR_CLUSTER=CLUSTER)
        self.url = web.wait_for("the page is served")["url"]

    def open(self, address: str = "?since=6h", **context: Any) -> Tab:
        tab = Tab(self.browser.new_context(**{"viewport": {"width": 1360, "height": 900}, **context}))
        tab.page.goto(f"{self.url}map{address}")
        return tab


@pytest.fixture(scope="module")
def maps(broker: str, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maps]:
    site = Site(broker, f"m{time.monotonic_ns()}", tmp_path_factory.mktemp("map"))
    yield Maps(site, browser)
    site.end()


def lines(page: Page) -> Any:
    return page.locator("#edges tbody tr")


def named(page: Page, count: int) -> None:
    expect(page.locator("#map")).to_have_attribute("aria-label", re.compile(f"Map of {count:,} connections"))


def test_the_map_and_its_list_say_who_talked_to_whom(maps: Maps) -> None:
    tab = maps.open()
    page = tab.page
    named(page, EDGES)
    expect(lines(page)).to_have_count(EDGES)
    expect(lines(page).first).to_contain_text("shop/Deployment/api")
    expect(lines(page).first).to_contain_text("7 denied")
    page.get_by_role("button", name="Denied", exact=True).click()
    expect(lines(page)).to_have_count(1)
    page.get_by_role("button", name="All", exact=True).first.click()
    page.get_by_label("Search").fill("198.51")
    expect(lines(page)).to_have_count(2)
    page.get_by_label("Search").fill("")
    opened = page.get_by_role("button", name="Open shop/Deployment/web to shop/Deployment/api, allowed")
    opened.press("Enter")
    expect(page.locator("#detail")).to_contain_text("shop/web-allow-api")
    expect(page.locator("#detail")).to_contain_text("443/tcp")
    expect(page.get_by_role("link", name="Records of this time")).to_have_attribute(
        "href", re.compile(r"^/\?since=.*namespace=shop&workload=Deployment%2Fweb$")
    )
    assert tab.violations() == []
    page.keyboard.press("Escape")
    expect(opened).to_be_focused()
    close(tab)


def test_the_slider_and_the_address_choose_the_time(maps: Maps) -> None:
    tab = maps.open(f"?since={iso(HOUR - 2)}&until={iso(HOUR + 3)}&from={iso(HOUR)}&to={iso(HOUR + 1)}")
    page = tab.page
    named(page, EDGES)
    expect(page.locator("#span-text")).to_contain_text(f"{iso(HOUR).replace('T', ' ')[:-1]} to")
    page.locator("#from").press("ArrowRight")
    named(page, 0)
    expect(page).to_have_url(re.compile("from="))
    page.locator("#from").press("Home")
    named(page, EDGES)
    page.locator("#to").press("End")
    named(page, EDGES)
    expect(page).not_to_have_url(re.compile("from="))
    close(tab)


def test_namespaces_close_and_a_link_keeps_them_closed(maps: Maps) -> None:
    tab = maps.open()
    page = tab.page
    named(page, EDGES)
    page.get_by_text("Namespaces", exact=True).click()
    page.locator("#group-list").get_by_role("button", name=re.compile("^shop")).click()
    expect(lines(page)).to_have_count(4)
    expect(page.locator("#group-list").get_by_role("button", name=re.compile("^shop"))).to_have_attribute(
        "aria-expanded", "false"
    )
    page.reload()
    expect(lines(page)).to_have_count(4)
    page.get_by_role("button", name="Namespaces only").click()
    expect(page.locator("#map")).to_have_attribute("aria-label", re.compile("between 4 places"))
    page.get_by_text("Namespaces", exact=True).click()
    page.locator("#group-list").get_by_role("button", name=re.compile("^shop")).click()
    expect(page.locator("#map")).to_have_attribute("aria-label", re.compile("between 6 places"))
    expect(page).to_have_url(re.compile("groups=closed&except=ns%3Ashop"))
    page.reload()
    expect(page.locator("#map")).to_have_attribute("aria-label", re.compile("between 6 places"))
    assert tab.violations() == []
    close(tab)


def test_names_from_the_topic_never_run_as_markup(maps: Maps) -> None:
    tab = maps.open("?since=6h&search=%3Cimg/src=x/onerror=window.hacked=1%3E")
    page = tab.page
    expect(lines(page)).to_have_count(1)
    expect(lines(page)).to_contain_text(MARKUP)
    lines(page).get_by_role("button").click()
    expect(page.locator("#detail h2")).to_contain_text(MARKUP)
    assert page.evaluate("() => window.hacked") is None
    assert page.evaluate("() => document.querySelectorAll('main img, #detail img').length") == 0
    close(tab)


@pytest.mark.parametrize(
    ("address", "where", "said"),
    [
        (f"?since={iso(HOUR + 2)}&until={iso(HOUR + 3)}", "#empty", "WEIR_PAIRS=1"),
        ("?since=2999-01-01", "#since-error", "future"),
        ("?until=1h", "#until-error", "needs a beginning"),
    ],
)
def test_what_cannot_be_shown_is_said(maps: Maps, address: str, where: str, said: str) -> None:
    tab = maps.open(address)
    expect(tab.page.locator(where)).to_contain_text(said)
    assert tab.violations() == []
    assert all("400" in error for error in tab.errors)
    tab.page.context.close()


def test_an_answer_that_is_cut_off_is_asked_for_again(maps: Maps) -> None:
    tab = Tab(maps.browser.new_context(viewport={"width": 1360, "height": 900}))
    page = tab.page
    page.route(re.compile("/api/map"), lambda route: route.fulfill(body='{"begins_s": 1'), times=1)
    page.goto(f"{maps.url}map?since=6h")
    expect(page.locator("#problem")).to_contain_text("The page tries again")
    named(page, EDGES)
    close(tab)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 390])
def test_the_map_fits_screens_and_schemes(maps: Maps, scheme: str, width: int) -> None:
    """`make pictures` keeps what is seen here."""
    tab = maps.open(viewport={"width": width, "height": 900}, color_scheme=scheme)
    named(tab.page, EDGES)
    assert tab.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert tab.violations() == []
    tab.picture(f"map-{scheme}-{width}")
    close(tab)


def test_a_thousand_workloads_are_drawn_and_dragged(maps: Maps) -> None:
    chance = random.Random(1)  # noqa: S311 - the same pairs each time
    ends = [workload(f"team-{number % 40}", f"w{number}") for number in range(1000)]
    chosen: set[tuple[int, int]] = {(number, (number + 1) % 1000) for number in range(1000)}
    while len(chosen) < 5000:
        one, other = chance.randrange(1000), chance.randrange(1000)
        if one != other:
            chosen.add((one, other))
    write_many(maps.site, [key(ends[one], ends[other]) for one, other in sorted(chosen)], CLUSTER, MANY_HOUR)
    tab = maps.open(f"?since={iso(MANY_HOUR)}&until={iso(MANY_HOUR + 1)}")
    page = tab.page
    expect(page.locator("#map")).to_have_attribute("aria-label", "Map of 5,000 connections between 1,000 places")
    expect(page.locator("#more")).to_contain_text("of 5,000 connections")
    before = page.locator("#map").screenshot()
    box = page.locator("#map").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 20, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 260, steps=4)
    page.mouse.up()
    page.wait_for_timeout(300)
    assert page.locator("#map").screenshot() != before
    tab.picture("map-1000")
    close(tab)


class Rights:
    """A viewer who may see some namespaces of a cluster."""

    def __init__(self, *namespaces: str, cluster: str = CLUSTER) -> None:
        self.cluster, self._namespaces = cluster, namespaces

    def status(self) -> int:
        return ALLOWED

    def may_see(self, namespace: str) -> bool | None:
        return namespace in self._namespaces


def ask(maps: Maps, viewer: Any, cluster: str = CLUSTER) -> TrafficMap:
    settings, connection = read_settings(maps.site.broker, maps.site.prefix)
    question = MapQuestion(replace(settings, cluster=cluster), lambda: connection)
    begin = datetime.fromtimestamp(HOUR * 3600, UTC)
    return question.ask(Window(begin, begin + timedelta(hours=1)), viewer)


def test_a_map_has_only_what_its_viewer_may_see(maps: Maps) -> None:
    found = ask(maps, Rights("bank"))
    assert sorted((one.namespace, one.name) for one in found.places) == [
        ("bank", "Deployment/db"),
        ("shop", "Deployment/api"),
    ]
    assert b"x9" not in msgspec.json.encode(found)
    assert [sum(counts[1:]) for edge in found.edges for counts in edge.counts] == [7]
    assert not ask(maps, Rights("nowhere")).edges
    assert len(ask(maps, Rights("")).edges) == len(ask(maps, Everybody()).edges) == EDGES


def test_another_cluster_is_never_on_the_map(maps: Maps) -> None:
    foreign = key(workload("shop", "foreign"), OUTSIDE)
    write_many(maps.site, [foreign], "c2", HOUR)
    for viewer in (Rights("", "shop"), Everybody()):
        assert b"foreign" not in msgspec.json.encode(ask(maps, viewer))
    assert len(ask(maps, Rights("", cluster="c2")).edges) == 1
    with pytest.raises(QueryError, match="set WEIR_CLUSTER"):
        ask(maps, Everybody(), cluster="")


def test_a_map_that_takes_too_long_says_what_to_do(maps: Maps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_question, "TIMEOUT_S", -1.0)
    with pytest.raises(QueryError, match="choose a shorter time") as raised:
        ask(maps, Everybody())
    assert raised.value.field == "since"
