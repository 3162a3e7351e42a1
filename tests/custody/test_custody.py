"""The custody run in its short form."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from tests.custody.__main__ import main


@pytest.mark.e2e
@pytest.mark.timeout(1800)
def test_wire_and_log_agree_while_policies_pods_probes_and_kafka_change() -> None:
    done = CliRunner().invoke(main, ["--short", "--seed", "3"], catch_exceptions=False)
    last = r"^[1-9]\d* packets, [1-9]\d* verdicts, 0 differences\n\Z"
    assert re.search(last, done.stdout, re.MULTILINE), done.output
    assert done.exit_code == 0, done.output
    assert re.search(r"n1: [1-9]\d* verdicts, n2: [1-9]\d* verdicts; [1-9]\d* connections between", done.output)
    assert re.search(r"[1-9]\d* times the policies of an epoch", done.output)
    for kind in ("TCP allowed", "TCP denied", "UDP allowed", "UDP denied", "ICMP allowed", "SCTP allowed"):
        assert re.search(rf"\b[1-9]\d* {kind}", done.stdout), done.output
