"""A run of every kind of connection, with nothing wrong."""

from __future__ import annotations

import pytest

from tests.custody.packets import FIRST, LATER, UDP, Tuple
from tests.custody.sample_run import (
    ALLOWED,
    BACKEND,
    CLIENT,
    DENIED,
    DIALLED,
    LARGE,
    LATE,
    NEW,
    OUT,
    PING,
    SERVER,
    WORLD,
    SampleRun,
)


@pytest.fixture
def sample() -> SampleRun:
    """Describe a run of every kind of connection, with nothing wrong."""
    run = SampleRun()
    ends, back = (CLIENT, SERVER), (SERVER, CLIENT)
    run.send(10, ends, ALLOWED)
    run.send(10.1, back, ALLOWED.reversed())
    run.log(10, ends, ALLOWED, "egress", "no_policy")
    run.log(10, ends, ALLOWED, "ingress", "policy", "low")
    for number in range(5):
        run.send(11 + number / 10, ends, DENIED, arrives=False)
    run.log(11, ends, DENIED, "egress", "no_policy")
    run.log(11, ends, DENIED, "ingress", "default_deny", "low")
    run.log(11.1, ends, DENIED, "ingress", "default_deny", "low", count=4)
    run.send(110, (CLIENT, NEW), LATE)
    run.log(110, (CLIENT, NEW), LATE, "egress", "no_policy")
    run.log(110, (CLIENT, NEW), LATE, "ingress", "no_policy")
    run.send(12, ends, DIALLED)
    service = {"namespace": "shop", "name": "echo"}
    run.log(12, ends, BACKEND, "egress", "no_policy", dialled={"ip": "10.96.0.1", "port": 80, "service": service})
    run.log(12, ends, BACKEND, "ingress", "policy", "low")
    run.send(60, ends, PING)
    run.send(60.1, back, PING, is_reply=True)
    run.log(60, ends, PING, "egress", "no_policy")
    run.log(60, ends, PING, "ingress", "policy", "open")
    run.send(13, (CLIENT, WORLD), OUT)
    run.log(13, (CLIENT, WORLD), OUT, "egress", "no_policy")
    run.send(14, ends, LARGE, fragment=FIRST)
    run.send(14.1, ends, Tuple(UDP, "10.0.0.1", 0, "10.0.0.2", 0), fragment=LATER)
    run.log(14, ends, LARGE, "egress", "no_policy")
    run.log(14, ends, LARGE, "ingress", "policy", "low")
    return run
