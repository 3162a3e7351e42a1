"""Tests of what a wait in vain says."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.kafka import site
from tests.waiting import described, freeze, is_frozen, until


def never() -> bool:
    return False


def test_a_wait_in_vain_shows_its_condition_and_the_values_in_it() -> None:
    found, expected = [1, 2], 3
    with pytest.raises(AssertionError) as caught:
        until(lambda: len(found) == expected, 0)
    shown = "not true after 0 s: until(lambda: len(found) == expected, 0) with expected=3, found=[1, 2]"
    assert str(caught.value).partition("\n")[0] == shown


def test_a_condition_of_any_form_is_described() -> None:
    assert described(never) == "never"
    assert described([].clear) == "list.clear"
    text = described(lambda before=5: before)  # type: ignore[misc]  # mypy cannot type a default
    assert text == "text = described(lambda before=5: before) with before=5"
    assert described(eval("lambda: 1")) == "<lambda>"  # noqa: S307 - has no source


def test_there_is_a_look_after_the_last_pause() -> None:
    answers = iter((False, True))
    site.until(lambda: next(answers), "it", 0.02)


_COUNTING = """
import itertools, threading
def count():
    for number in itertools.count():
        if number % 1000 == 0:
            print(number, flush=True)
for _ in range(4):
    threading.Thread(target=count, daemon=True).start()
threading.Event().wait()
"""


def test_a_frozen_process_does_nothing_more_in_any_thread() -> None:
    with subprocess.Popen([sys.executable, "-c", _COUNTING], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert not is_frozen(process.pid)
            freeze(process.pid)
            assert is_frozen(process.pid)
            process.send_signal(signal.SIGCONT)
            until(lambda: not is_frozen(process.pid))
        finally:
            process.kill()
