"""A thread that dies is seen at once, and ends its process."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """\
import sys, threading, urllib.error, urllib.request
from prometheus_client import CollectorRegistry
from enrich.runtime.dead_threads import dead_thread, end_on_dead_threads
from enrich.runtime.health import HealthServer

ended = threading.Event()
end_on_dead_threads(ended.set)
server = HealthServer("127.0.0.1:0", CollectorRegistry(), {"work": lambda: None})
def ready():
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{server.port}/readyz", timeout=120).read().decode()
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"
print(ready(), end="")
def quit():
    sys.exit(1)
def die():
    raise KeyError("a fault")
for work in (quit, die, die):
    thread = threading.Thread(target=work, name=work.__name__)
    thread.start()
    thread.join()
    print(ended.is_set(), dead_thread())
print(ready(), end="")
"""


def test_the_death_of_a_thread_is_seen_at_once_and_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=240, check=True)
    death = "the thread die died: KeyError: 'a fault'"
    lines = [line for line in done.stdout.splitlines() if "a thread died" not in line]
    assert lines[:2] == ["ok", "False None"], "sys.exit ends a thread on purpose"
    assert [line for line in lines if line.startswith("True")] == [f"True {death}"] * 2
    assert lines[-1] == f"503 threads: {death}"
