"""Settings for all tests: the order of the rings, and fixed seeds."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from enrich.sources.gc_pause import gc_paused
from tests import attachments
from tests.overdue import Overdue
from tests.programs import use_for_services
from tests.report import RINGS, ring_of

# `make test` must give the same result every time, so hypothesis derives its examples from the test's source.
# `make hunt` searches with random seeds.
settings.register_profile("test", derandomize=True, deadline=None)
settings.register_profile(
    "hunt", derandomize=False, deadline=None, print_blob=False, suppress_health_check=list(HealthCheck)
)
settings.load_profile(os.environ.get("KUBEWEIR_HYPOTHESIS_PROFILE", "test"))


def pytest_configure(config: pytest.Config) -> None:
    """Take Ctrl-C as usual. A shell without job control ignores it in what it starts with ``&``, and whoever is started
    from there ignores it too: then a service under test would not end by Ctrl-C either. Have probes share what is
    compiled. End what hangs."""
    config.pluginmanager.register(Overdue(config), "kubeweir-overdue")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    use_for_services()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Pause Python's garbage collector while the tests are collected: it would search all that lives as long as the
    process, again and again."""
    with gc_paused():
        return (yield)


@pytest.fixture(autouse=True)
def _same_signals() -> Iterator[None]:
    """Put back what signals do: a command that a test runs in this process takes them over."""
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    yield
    for one, handler in before.items():
        if signal.getsignal(one) is not handler:
            signal.signal(one, handler)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark hypothesis tests as properties, so that ``make hunt`` finds them, and tests that attach by clsact."""
    if "clsact" in item.name:
        item.add_marker("clsact")
    if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
        item.add_marker("property")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the cheap tests first, so that a mistake shows at once; the order by file stays within a ring."""
    items.sort(key=lambda item: RINGS.index(ring_of(item)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show in the report of a failure what became of the services."""
    report = yield
    if report.failed:
        report.sections += attachments.sections()
    return report


def pytest_runtest_logfinish() -> None:
    """Show nothing of a test's services in the reports of later tests."""
    attachments.forget_ended()


@pytest.fixture(autouse=True)
def _root_for_the_kernel(request: pytest.FixtureRequest) -> None:
    if os.geteuid() != 0 and any(request.node.get_closest_marker(name) for name in ("kernel", "e2e")):
        pytest.fail("must run as root, to load kernel programs and make network namespaces")


@pytest.fixture(autouse=True)
def _default_logs() -> Iterator[None]:
    """Undo a command's configuration of the logs, which would send a later test's lines to the wrong stream."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
