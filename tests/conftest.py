"""What every test may use."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The cheap ones first, so that a mistake shows at once; the order by file stays within a ring."""
    rings = ("kernel", "kafka", "cluster", "e2e")
    items.sort(
        key=lambda item: max((rings.index(m.name) + 1 for m in item.iter_markers() if m.name in rings), default=0)
    )


@pytest.fixture(autouse=True)
def _root_for_the_kernel(request: pytest.FixtureRequest) -> None:
    if os.geteuid() != 0 and any(request.node.get_closest_marker(name) for name in ("kernel", "e2e")):
        pytest.fail("must run as root: it loads programs and makes network namespaces")
