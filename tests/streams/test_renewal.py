"""A role that runs alone begins again when credentials are renewed, unless somebody wants it to end meanwhile."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import contextlib, os, signal, sys, threading
import streams.main as main
from enrich.runtime.process import stop_on_signals
from enrich.runtime.settings import load
from streams.settings import Settings

class Watch:
    def __init__(self, _settings, on_renewed):
        self._on_renewed = on_renewed

    @contextlib.contextmanager
    def running(self):
        threading.Thread(target=self._on_renewed, daemon=True).start()
        yield

def role(_name, _settings, stop):
    assert stop.wait(60)  # for the renewal
    if sys.argv[1] == "signal":
        os.kill(os.getpid(), signal.SIGTERM)
    return 0

def begin_again(_role):
    print("begins again")
    os._exit(7)

main.CredentialWatch, main.run_role, main.begin_again = Watch, role, begin_again
stop = stop_on_signals()
sys.exit(main._run_alone("enrich", load(Settings, {}), stop))
"""


@pytest.mark.parametrize(("meanwhile", "code"), [("nothing", 7), ("signal", 0)])
def test_a_signal_during_a_renewal_ends_the_process(meanwhile: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, meanwhile], capture_output=True, text=True, timeout=240,
                          cwd=Path(__file__).parents[2], check=False)  # fmt: skip
    assert done.returncode == code, done.stderr
    assert ("begins again" in done.stdout) == (meanwhile == "nothing")
