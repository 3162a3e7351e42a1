"""The command: it chooses the parts, starts Kafka if one of them needs it, and prints and writes the figures."""

from __future__ import annotations

import contextlib
import os
import signal
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
from tests.kafka.broker import running_broker

_ROOT: Final = Path(__file__).parents[2]
PARTS: Final = ("packets", "evictions", "ring", "streams", "alerts", "churn")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, type=click.Choice(PARTS), help="Measure only this part; can be repeated.")
@click.option(
    "--quick", is_flag=True, help="Small amounts and one round: checks that the bench works; ignore the figures."
)
@click.option(
    "--json",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=_ROOT / "build" / "bench.json",
    show_default="build/bench.json",
    help="File for the figures as JSON.",
)
def command(only: Sequence[str], quick: bool, path: Path) -> None:
    """Measure kubeweir on this machine; takes a quarter of an hour on two cores.

    \b
    packets: nanoseconds per packet in the kernel program
    evictions: nanoseconds per new connection of a pod at its limit
    ring:    verdicts per second from the ring buffer to acknowledged Kafka batches
    streams: verdicts per second from the raw topic to flow records, beside plain Faust
    alerts:  seconds from the packet to Alertmanager, and memory for many groups
    churn:   verdicts per CPU second while the cluster changes, against a quiet cluster

    It needs root, and the packages that `make setup` installs. Other programs that run meanwhile change the figures.
    """
    chosen = [part for part in PARTS if not only or part in only]
    if os.geteuid() != 0 and {"packets", "evictions", "ring"} & set(chosen):
        raise click.ClickException("must run as root, to load kernel programs; without root, use --only streams")
    configure_logs("warning", "console")
    # A SIGTERM must clean up as Ctrl-C does.
    signal.signal(signal.SIGTERM, _end)
    try:
        with tempfile.TemporaryDirectory(prefix="kubeweir-bench-") as folder:
            machine = describe(Path(folder))
            parts = _measure(chosen, QUICK if quick else FULL, Path(folder))
    except (BenchError, LoadError, OSError) as error:
        raise click.ClickException(str(error)) from error
    write_json(path, parts, machine, quick=quick)
    print_table(parts, machine)
    print(f"\nThe figures as JSON: {path}")


def _end(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _measure(chosen: Sequence[str], scale: Scale, folder: Path) -> dict[str, Part]:
    from tests.bench import alerts, churn, evictions, packets, ring, streams
    from tests.bench.node import make_node

    found: dict[str, Part] = {}
    with contextlib.ExitStack() as stack:
        if {"packets", "ring"} & set(chosen):
            say("compiling and loading the kernel program, filling its maps")
            node = stack.enter_context(make_node(_subfolder(folder, "node"), scale.other_pods))
        if "packets" in chosen:
            # This part runs before Kafka starts, whose threads would take CPU from it.
            with make_node(_subfolder(folder, "ends"), scale.other_pods, ends=True) as with_ends:
                found["packets"] = packets.measure(scale, node, with_ends)
        if "evictions" in chosen:
            # On a node of its own: the connections of the other parts would be counted, too.
            with make_node(_subfolder(folder, "full"), scale.other_pods) as full:
                found["evictions"] = evictions.measure(scale, full)
        if {"ring", "streams", "alerts"} & set(chosen):
            servers = stack.enter_context(_kafka(folder))
        if "ring" in chosen:
            found["ring"] = ring.measure(scale, node, _subfolder(folder, "ring"), servers)
        if "streams" in chosen:
            found["streams"] = streams.measure(scale, _subfolder(folder, "streams"), servers)
        if "alerts" in chosen:
            found["alerts"] = alerts.measure(scale, _subfolder(folder, "alerts"), servers)
        if "churn" in chosen:
            found["churn"] = churn.measure(scale)
    return found


def _subfolder(folder: Path, name: str) -> Path:
    path = folder / name
    path.mkdir()
    return path


@contextlib.contextmanager
def _kafka(folder: Path) -> Iterator[str]:
    say("starting Apache Kafka")
    try:
        with running_broker(_subfolder(folder, "kafka")) as servers:
            yield servers
    except RuntimeError as error:
        raise BenchError(str(error)) from error


if __name__ == "__main__":
    command(prog_name="python -m tests.bench")
