"""The command: chooses the parts, starts Kafka for those that need it, prints and writes what was found."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

import click

from enrich.runtime.process import configure_logs
from probe.kernel.program import LoadError
from tests.bench.machine import describe
from tests.bench.report import print_table, write_json
from tests.bench.result import BenchError, Part, say
from tests.bench.scale import FULL, QUICK, Scale
from tests.kafka.broker import run_broker

_ROOT: Final = Path(__file__).parents[2]
PARTS: Final = ("packets", "ring", "streams", "alerts")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, type=click.Choice(PARTS), help="Measure this part only; may be given again.")
@click.option("--quick", is_flag=True, help="Small amounts and one round: to see that it works, not what it does.")
@click.option(
    "--json",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=_ROOT / "build" / "bench.json",
    show_default="build/bench.json",
    help="Where the figures go as JSON.",
)
def command(only: Sequence[str], quick: bool, path: Path) -> None:
    """Measure kubeweir on this machine: a quarter of an hour on two cores.

    packets: nanoseconds a packet of the kernel program. ring: verdicts a second from the ring buffer to acknowledged
    Kafka batches. streams: verdicts a second from the raw topic to one record each, beside plain Faust. alerts: seconds
    from the packet to Alertmanager, and megabytes for many groups. Needs root, and what `make setup` installs. Nothing
    else should run meanwhile.
    """
    wanted = [part for part in PARTS if not only or part in only]
    if os.geteuid() != 0 and {"packets", "ring"} & set(wanted):
        raise click.ClickException("must run as root: it loads programs (or measure `--only streams`)")
    configure_logs("warning", "console")
    # Clean up as after Ctrl-C.
    signal.signal(signal.SIGTERM, _end)
    # The namespaces of the tests and the demo are made by a program that is in no package.
    sys.path.insert(0, str(_ROOT / "deploy" / "local"))
    try:
        with tempfile.TemporaryDirectory(prefix="kubeweir-bench-") as folder:
            machine = describe(Path(folder))
            parts = _measure(wanted, QUICK if quick else FULL, Path(folder))
    except (BenchError, LoadError, OSError) as error:
        raise click.ClickException(str(error)) from error
    write_json(path, parts, machine, quick=quick)
    print_table(parts, machine)
    print(f"\nas JSON: {path}")


def _end(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _measure(wanted: Sequence[str], scale: Scale, folder: Path) -> dict[str, Part]:
    from tests.bench import alerts, packets, ring, streams
    from tests.bench.node import made_node

    found: dict[str, Part] = {}
    with contextlib.ExitStack() as stack:
        if {"packets", "ring"} & set(wanted):
            say("compiling, loading and filling the maps")
            node = stack.enter_context(made_node(_room(folder, "node"), scale.other_pods))
        if "packets" in wanted:
            # Before Kafka runs, whose threads would be in the way.
            found["packets"] = packets.measure(scale, node)
        if {"ring", "streams", "alerts"} & set(wanted):
            servers = stack.enter_context(_kafka(folder))
        if "ring" in wanted:
            found["ring"] = ring.measure(scale, node, _room(folder, "ring"), servers)
        if "streams" in wanted:
            found["streams"] = streams.measure(scale, _room(folder, "streams"), servers)
        if "alerts" in wanted:
            found["alerts"] = alerts.measure(scale, _room(folder, "alerts"), servers)
    return found


def _room(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    return made


@contextlib.contextmanager
def _kafka(folder: Path) -> Iterator[str]:
    say("starting Apache Kafka")
    try:
        with contextlib.contextmanager(run_broker)(_room(folder, "kafka")) as servers:
            yield servers
    except RuntimeError as error:
        raise BenchError(str(error)) from error


if __name__ == "__main__":
    command(prog_name="python -m tests.bench")
