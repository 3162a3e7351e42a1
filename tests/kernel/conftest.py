"""A rig for each way of attaching, made once; each test begins with no pods and no policies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.rig import Rig


@pytest.fixture(scope="session", params=["tcx", "clsact"])
def _rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("rig"), request.param)
    yield rig
    rig.close()


@pytest.fixture
def rig(_rig: Rig) -> Iterator[Rig]:
    yield _rig
    _rig.reset()
