"""A role that does not end by itself is ended (``streams.roles.ending``)."""

from __future__ import annotations

import subprocess
import sys

from enrich.runtime.process import Exit

HANGS = """
import threading
from streams.roles.ending import ending_surely

stop = threading.Event()
stop.set()
with ending_surely(stop, -3.0):
    threading.Event().wait()
"""
RETURNS = """
import threading
from streams.roles.ending import ending_surely

stop = threading.Event()
stop.set()
with ending_surely(stop, -2.5):
    pass
for thread in threading.enumerate():
    if thread.name == "end":
        thread.join()
"""


def test_a_role_that_never_returns_is_ended_after_the_stop() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, check=False)
    assert done.returncode == Exit.UNEXPECTED
    assert "the role does not end by itself" in done.stderr + done.stdout


def test_a_role_that_returns_in_time_is_left_alone() -> None:
    done = subprocess.run([sys.executable, "-c", RETURNS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (Exit.OK, "", "")
