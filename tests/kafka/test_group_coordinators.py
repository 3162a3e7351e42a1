"""Calls that a group's coordinator answers, while it is away and when it has come back.

librdkafka would end the process that makes them, so that is a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.kafka.movable import MovableBroker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]

ASK: Final = """
import faulthandler, sys, time
from confluent_kafka import KafkaException, TopicPartition
from streams.kafka import consumer_groups
from streams.kafka.consumer_groups import GroupCoordinators, delete_groups

faulthandler.enable()
consumer_groups._ANSWER_S = consumer_groups.CALL_TIMEOUT_S = 1.0
connection = {"bootstrap.servers": sys.argv[1], "log_level": "0"}
groups = GroupCoordinators(connection)

def answers(call):
    try:
        call()
    except (KafkaException, TimeoutError) as error:
        return not isinstance(error, TimeoutError) and error.args[0].code() > 0
    return True

def delete():
    if any(why == "no answer" for why in delete_groups(connection, ["g"]).values()):
        raise TimeoutError

calls = [
    lambda: groups.refusal("g"), lambda: groups.assigned_partitions("g"), lambda: groups.others("g", ""),
    lambda: groups.set_offsets("g", [TopicPartition("t", 0, 0)]), delete,
]
for line in sys.stdin:
    while [answers(call) for call in calls] != [line.strip() == "there"] * len(calls):
        time.sleep(0.1)
    print(line.strip(), flush=True)
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MovableBroker]:
    with contextlib.closing(MovableBroker(tmp_path)) as made:
        made.start()
        yield made


class Asking:
    """A process that makes the calls until they find what is expected."""

    def __init__(self, broker: str) -> None:
        # Freed memory that is used again is noticed for sure if it is overwritten.
        env = {**os.environ, "MALLOC_PERTURB_": "255"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", ASK, broker], env=env, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def finds(self, coordinator: str) -> bool:
        """Wait until each call finds that the coordinator is "there" or "away"; print what the process says instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(coordinator, file=self._process.stdin)
        said = self._process.stdout.readline()
        if said == f"{coordinator}\n":
            return True
        print(said, self._process.stdout.read())
        return False

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


def test_a_coordinator_that_comes_back_ends_no_process_that_has_waited_for_it_in_vain(broker: MovableBroker) -> None:
    with contextlib.ExitStack() as stack:
        asking = Asking(broker.address)
        stack.callback(asking.end)
        assert asking.finds("there")
        broker.stop()
        assert asking.finds("away")
        broker.start()
        assert asking.finds("there")
