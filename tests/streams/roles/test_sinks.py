"""The roles that are sinks."""

from __future__ import annotations

import pytest

from enrich.runtime.process import Exit, StopServiceError
from streams.main import ROLES
from streams.roles.sinks import SINK_MAKERS, make_sink
from streams.settings import Settings
from streams.sinks.stdout import StdoutSink


def test_every_sink_is_a_role() -> None:
    assert set(SINK_MAKERS) < set(ROLES)
    assert isinstance(make_sink("stdout", Settings()), StdoutSink)


def test_a_sink_without_a_maker_stops_the_service_instead_of_writing_to_stdout() -> None:
    with pytest.raises(StopServiceError, match="there is no sink 'syslog': the sinks are stdout, file") as stopped:
        make_sink("syslog", Settings())
    assert stopped.value.code == Exit.USAGE
