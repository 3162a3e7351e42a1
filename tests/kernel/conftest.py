"""One rig for each way of attaching, made once. Each test begins without pods and policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from probe.kernel.layout import Config
from tests.kernel.rig import SMALL, SMALL_LIMIT, Rig


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that uses a rig once for each way of attaching, those marked ``one_mode`` once.

    A test may name the ways itself, to combine them with other dimensions (``tests.kernel.pairs``)."""
    named = any("_rig" in marker.args[0] for marker in metafunc.definition.iter_markers("parametrize"))
    if "_rig" in metafunc.fixturenames and not named:
        one_mode = metafunc.definition.get_closest_marker("one_mode") is not None
        metafunc.parametrize("_rig", ["tcx"] if one_mode else ["tcx", "clsact"], indirect=True, scope="session")


@pytest.fixture(scope="session")
def _rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("rig"), request.param)
    yield rig
    rig.close()


@pytest.fixture
def rig(_rig: Rig) -> Iterator[Rig]:
    yield _rig
    _rig.reset()


@pytest.fixture(scope="module")
def own_sizes() -> Mapping[str, int]:
    """Return the sizes of a module's own rig. A module that needs others has a fixture of this name."""
    return SMALL


@pytest.fixture(scope="module", params=["tcx", "clsact"])
def _of_module(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, own_sizes: Mapping[str, int]
) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("module"), request.param, sizes=own_sizes)
    yield made
    made.close()


@pytest.fixture
def small(_of_module: Rig) -> Iterator[Rig]:
    """Return a rig with a small table of connections, for tests that fill it."""
    _of_module.maps.configure(Config.POD_CONNECTIONS, SMALL_LIMIT)
    yield _of_module
    _of_module.reset()


@pytest.fixture
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """Make a rig of the test's own; the parameter is how it attaches."""
    rig = Rig(tmp_path / "rig", request.param)
    yield rig
    rig.close()
