"""``make bench-watch``: time and memory of the Kubernetes watch, beside the official client's informer.

A third reader, called ``nobody``, only receives the bytes: what it needs is the lower bound. The large sizes are served
by a server of canned bytes that speaks the real protocol, because a real API server would take gigabytes of memory. If
a kube-apiserver is built, 1,000 and 10,000 pods are listed from it too, and the time from a change at the API server to
the kernel's map is measured (:mod:`tests.bench_watch.kernel`). Each measurement runs in its own process. The figures
are printed as tables and as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from tests.bench_watch.readers import READERS
from tests.bench_watch.server import CannedServer, make_pod

_ROOT: Final = Path(__file__).parents[2]
_AIMS: Final = {"sync_s": 3.0, "memory_mb": 250.0, "event_ms_p99": 5.0}
"""Aims for 100,000 pods that are listed from a server on the same machine."""
_KERNEL_AIM_MS: Final = 100.0
"""Aim for the 99th percentile from a change at the API server to the kernel's map, with 10,000 pods, 1,000 policies."""
_KERNEL_COLUMNS: Final = (
    ("change", "change"), ("pods", "pods"), ("policies", "policies"), ("sent_ms_p50", "after request, ms p50"),
    ("sent_ms_p99", "p99"), ("answered_ms_p50", "after response p50"), ("answered_ms_p99", "p99"),
    ("nobody_ms_p50", "nobody, after request p50"), ("nobody_ms_p99", "p99"),
)  # fmt: skip
_COLUMNS: Final = (
    ("server", "server"), ("what", "reader"), ("pods", "pods"), ("sync_s", "list s"), ("sync_cpu_s", "CPU s"),
    ("memory_mb", "MB"), ("event_ms_p50", "event ms p50"), ("event_ms_p99", "p99"), ("list_mb", "list MB"),
    ("standing_cpu_percent", "CPU % idle"), ("churn_cpu_percent", "at 100 changes/s"), ("churn_bytes_per_s", "bytes/s"),
)  # fmt: skip


_INFORMER_MAX_PODS: Final = 10_000


def _measure(server: str, what: str, where: str, pods: int, rate: int, seconds: float) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench_watch.worker", what, where, str(pods), str(rate), str(seconds)],
        cwd=_ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise click.ClickException(f"the measurement of {what} with {pods:,} pods failed: {done.stderr[-2000:]}")
    row = {"server": server, **json.loads(done.stdout)}
    click.echo(f"{server}: {done.stdout.strip()}", err=True)
    return row


def _canned(pods: int, rate: int, seconds: float) -> list[dict[str, Any]]:
    server = CannedServer(pods)
    try:
        readers = [what for what in READERS if what != "informer" or pods <= _INFORMER_MAX_PODS]
        return [_measure("canned", what, str(server.port), pods, rate, seconds) for what in readers]
    finally:
        server.close()


def _binaries() -> Path | None:
    """Return the folder of kube-apiserver and etcd, or None if they are not built."""
    program = _ROOT / "deploy/local/binaries"
    built = subprocess.run([program, "--if-built"], capture_output=True, text=True, check=False)
    return None if built.returncode else Path(built.stdout.strip())


def _real(binaries: Path, sizes: list[int]) -> list[dict[str, Any]]:
    """Measure against a real kube-apiserver with etcd."""
    from tests.cluster.apiserver import ApiServer

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        server = ApiServer(binaries, Path(folder) / "api")
        try:
            server.start()
            filled = 0
            for pods in sizes:
                _fill(server, filled, pods)
                filled = pods
                config = str(server.kubeconfig("admin"))
                readers = [what for what in READERS if what != "informer" or pods <= _INFORMER_MAX_PODS]
                rows += [_measure("kube-apiserver", what, config, pods, 0, 0) for what in readers]
        finally:
            server.close()
    return rows


def _fill(server: Any, first: int, end: int) -> None:
    server.load({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": team}}
                for team in {make_pod(number)["metadata"]["namespace"] for number in range(first, end)})  # fmt: skip
    pods = [make_pod(number) for number in range(first, end)]
    for pod in pods:
        del pod["metadata"]["resourceVersion"]
    server.load(pods)
    server.wait_for_pods(end)


def _kernel(binaries: Path, pods: int, rounds: int) -> list[dict[str, Any]]:
    if os.geteuid() != 0:
        click.echo("The time to the kernel's map is not measured, because that needs root.")
        return []
    from tests.bench_watch.kernel import measure

    with tempfile.TemporaryDirectory() as folder:
        return measure(binaries, Path(folder), pods, rounds)


def _show(title: str, columns: Sequence[tuple[str, str]], rows: list[dict[str, Any]]) -> None:
    table = Table(title=title)
    for _, heading in columns:
        table.add_column(heading, justify="right")
    for row in rows:
        cells = [row.get(name, "") for name, _ in columns]
        table.add_row(*(f"{cell:,.1f}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else cell
                        for cell in cells))  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@click.command()
@click.option("--quick", is_flag=True, help="Small sizes and no real API server: checks that it works.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures to this file too.")
@click.option("--real-most", default=10_000, show_default=True,
              help="Maximum number of pods on a real API server; it needs 4 GB for 100,000.")  # fmt: skip
def main(*, quick: bool, path: Path | None, real_most: int) -> None:
    """Measure the Kubernetes watch of pods: time, CPU and memory."""
    sizes, seconds = ([100, 1000], 1.0) if quick else ([1000, 10_000, 100_000], 10.0)
    rows = [row for pods in sizes for row in _canned(pods, 100, seconds)]
    binaries, kernel = None if quick else _binaries(), []
    if binaries:
        rows += _real(binaries, [pods for pods in sizes if pods <= real_most])
        kernel = _kernel(binaries, 10_000, 200)
    elif not quick:
        click.echo("kube-apiserver is not built (deploy/local/binaries), so the measurements with it are left out.")
    _show("The watch of pods", _COLUMNS, rows)
    if kernel:
        _show("From a change at the API server to the kernel's map", _KERNEL_COLUMNS, kernel)
    load = os.getloadavg()[0]
    if not quick:
        nobody, largest = (next(row for row in rows if (row["what"], row["pods"]) == (what, sizes[-1]))
                           for what in ("nobody", "ours"))  # fmt: skip
        for name, aim in _AIMS.items():
            click.echo(f"{name} at {sizes[-1]:,} pods: {largest[name]:.1f}, aim {aim:g}; nobody {nobody[name]:.1f}")
        for row in kernel:
            click.echo(f"{row['change']}: {row['sent_ms_p99']:.1f} ms to the kernel's map, aim {_KERNEL_AIM_MS:g}")
        click.echo("The informer is not measured at 100,000 pods, where it would take minutes and 6 GB of memory.")
    if load > 1:
        click.echo(f"The machine was busy (load {load:.1f}): compare rows only with others of this run.")
    result = {"load": load, "aims": _AIMS, "rows": rows, "kernel": kernel}
    if path:
        path.write_text(json.dumps(result, indent=1) + "\n")
    elif not sys.stdout.isatty():
        click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
