"""The view Policies of the page, in a real browser, on a real journal and real pairs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from enrich.history.profile import number_of
from enrich.wire.pair import PairEnd, PairKey
from enrich.wire.references import PolicyRef
from tests.enrich.history.journals import CLUSTER, entry, namespace, policy
from tests.kafka.browsing import PATIENCE_MS, Tab, close
from tests.kafka.pasts import write_past
from tests.kafka.shop import DB, JOURNAL, WEB
from tests.kafka.site import Site

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

expect.set_options(timeout=PATIENCE_MS * 3)
HOSTILE = "</pre><img/src=x/onerror=window.hacked=1>"
FOREIGN_NAMESPACE = "x9-other"
ENDS = [
    PairEnd(profile=number_of(one), namespace="shop", workload=f"Deployment/{one.workload_name}") for one in (DB, WEB)
]
ALLOWED = PairKey(
    subject=ENDS[0], peer=ENDS[1], direction="ingress", protocol=6, port=5432, verdict="allow", reason="policy",
    policies=(PolicyRef("NetworkPolicy", "shop", "db", 0),),
)  # fmt: skip
STRANGE = PairKey(
    subject=PairEnd(profile="0123456789abcdef", namespace="shop", workload=f"Deployment/{HOSTILE}"),
    peer=PairEnd(block="198.51.100.7/32"), direction="egress", protocol=6, port=443, verdict="allow",
    reason="no_policy",
)  # fmt: skip
OTHER = PairKey(
    subject=PairEnd(profile="0123456789abcdee", namespace=FOREIGN_NAMESPACE, workload="Deployment/s9"), peer=ENDS[1],
    direction="ingress", protocol=6, port=80, verdict="allow", reason="no_policy",
)  # fmt: skip
IDLE = policy("idle", {"podSelector": {"matchLabels": {"app": "db", "x": "y"}}}, "shop")
FOREIGN = policy("foreign", {"podSelector": {}}, FOREIGN_NAMESPACE)
CLOSED = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}}
"""


class View:
    """Topics with a past, the role web on them, and tabs."""

    def __init__(self, site: Site, browser: Browser) -> None:
        self.site, self.browser = site, browser
        others = [entry(one, 0) for one in (namespace(FOREIGN_NAMESPACE), IDLE, FOREIGN)]
        # Times of the journal do not go back.
        journal = [*JOURNAL[:-1], *others, JOURNAL[-1]]
        write_past(site, journal, [(ALLOWED, 40), (STRANGE, 3), (OTHER, 9)])
        web = site.start("web", "--alone", WEIR_WEB="127.0.0.1:0", WEIR_CLUSTER=CLUSTER)
        self.url = web.wait_for("the page is served")["url"]

    def open(self, address: str = "?namespace=shop", **context: Any) -> Tab:
        tab = Tab(self.browser.new_context(**{"viewport": {"width": 1360, "height": 1000}, **context}))
        tab.page.goto(f"{self.url}policies{address}")
        return tab


@pytest.fixture(scope="module")
def view(broker: str, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[View]:
    site = Site(broker, f"q{time.monotonic_ns()}", tmp_path_factory.mktemp("policies"))
    yield View(site, browser)
    site.end()


def row(page: Page, name: str) -> Any:
    return page.locator(".used tbody tr").filter(has=page.get_by_role("button", name=name, exact=True))


def test_it_shows_how_policies_were_used_and_what_others_would_change(view: View) -> None:
    tab = view.open()
    page = tab.page
    expect(row(page, "shop/db")).to_contain_text("40 allowed")
    expect(row(page, "shop/db")).to_contain_text("Deployment/db")
    expect(row(page, "shop/idle")).to_contain_text("selects nobody")
    expect(page.locator(".used")).not_to_contain_text(FOREIGN_NAMESPACE)
    assert tab.violations() == []
    tab.picture("policies-light-1360")
    page.get_by_role("button", name="shop/db", exact=True).press("Enter")
    panel = page.locator("#detail")
    expect(panel.locator(".rules")).to_contain_text("used")
    expect(panel.locator(".yaml")).to_contain_text("app: web")
    expect(panel.get_by_role("link", name="Denies that name it")).to_have_attribute(
        "href", "/?verdict=deny&policy=shop%2Fdb&since=7d"
    )
    assert tab.violations() == []
    tab.picture("policies-detail")
    panel.get_by_role("button", name="Change it below").click()
    expect(panel).to_be_hidden()
    expect(page.get_by_label("Policies in YAML")).to_have_value(re.compile("name: db"))
    page.get_by_label("Policies in YAML").fill(CLOSED)
    page.get_by_role("button", name="Backtest").click()
    expect(page.locator(".sums")).to_contain_text("40 newly denied")
    expect(page.locator("#tried .found li.deny")).to_contain_text(
        "shop/web → shop/db tcp/5432, ingress, 40 connections"
    )
    # A workload's name comes from a topic.
    expect(page.locator("#tried")).to_contain_text(HOSTILE)
    page.get_by_role("button", name="Recommend").click()
    expect(page.locator("#recommended .verdict")).to_contain_text("none that was denied")
    expect(page.locator("#recommended .yaml")).to_contain_text("kind: NetworkPolicy")
    assert page.evaluate("() => window.hacked") is None
    assert page.evaluate("() => document.querySelectorAll('main img').length") == 0
    assert tab.violations() == []
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 900})
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert tab.violations() == []
    tab.picture("policies-dark-390")
    close(tab)


def test_a_mistake_is_said_at_its_field(view: View) -> None:
    tab = view.open("?namespace=Shop")
    page = tab.page
    expect(page.locator("#namespace-error")).to_contain_text("No namespace has this name")
    page.get_by_label("Namespace", exact=True).fill("shop")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"\?namespace=shop$"))
    expect(row(page, "shop/db")).to_be_visible()
    page.get_by_role("button", name="Backtest").click()
    expect(page.locator("#policies-error")).to_contain_text("Paste a policy in YAML")
    for text, said in (
        ("kind: Secret\napiVersion: v1\nmetadata: {name: a}", "standard input: there is no policy, only 1 Secret"),
        (CLOSED.replace("shop", FOREIGN_NAMESPACE), f"is of namespace {FOREIGN_NAMESPACE}"),
        ("[" * 50_000, "standard input"),
    ):
        page.get_by_label("Policies in YAML").fill(text)
        page.get_by_role("button", name="Backtest").click()
        expect(page.locator("#policies-error")).to_contain_text(said)
    expect(page.get_by_label("Policies in YAML")).to_have_attribute("aria-invalid", "true")
    assert tab.violations() == []
    page.get_by_label("Namespace", exact=True).fill("")
    page.get_by_role("button", name="Show").click()
    expect(row(page, f"{FOREIGN_NAMESPACE}/foreign")).to_be_visible()
    page.get_by_role("button", name="Recommend").click()
    expect(page.locator("#namespace-error")).to_contain_text("Choose a namespace")
    page.context.close()
