"""``python -m tests.attack``: see ``--help``."""

from __future__ import annotations

import fnmatch
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import NoReturn, cast

import click

from enrich.runtime.process import Exit, configure_logs
from probe.kernel.attach import Mode
from probe.kernel.program import LoadError
from tests.attack import classes
from tests.attack.elsewhere import compile_for
from tests.attack.loading import SMALLER, load_all
from tests.attack.runner import run
from tests.kernel.rig import SIZES, WITH_ENDS

_TOOLS = ("ip", "nsenter", "nft", "sysctl")


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True, help="Repeat each attack so often.")
@click.option(
    "--mode",
    type=click.Choice(["tcx", "clsact"]),
    help="Way of attaching; default: all that the kernel has.",
)
@click.option("--only", metavar="GLOB", default="*", help="Run only classes whose name matches.")
@click.option("--short", is_flag=True, help="One round of each class, attached as the probe does by default.")
@click.option("--ends", is_flag=True, help="Attack the programs of WEIR_ENDS=1.")
@click.option("--small", is_flag=True, help="Use smaller tables, which attacks by numbers fill sooner.")
@click.option(
    "--load", "only_load", is_flag=True, help="Attack nothing: load all programs, with and without WEIR_ENDS=1."
)
@click.option(
    "--compile-for",
    "release",
    metavar="RELEASE",
    help="Attack nothing: compile the programs for another kernel (uname -r) and --cpus processors.",
)
@click.option("--cpus", type=click.IntRange(1), default=4, show_default=True, help="For --compile-for.")
@click.option("--list", "names", is_flag=True, help="List the names of the classes.")
def main(
    rounds: int,
    mode: str | None,
    only: str,
    release: str | None,
    cpus: int,
    *,
    short: bool,
    ends: bool,
    small: bool,
    only_load: bool,
    names: bool,
) -> None:
    """Attack the real programs at real veth pairs, on the kernel of this machine, in network namespaces of their own.

    Prints a line for each class: what was tried, how often, how many got through, how many packets that policy allows
    were lost. Exit codes: 0 nothing got through and nothing was wrongly denied, 1 otherwise, 2 no class, 3 cannot run
    here.
    """
    chosen = [one for one in classes.ATTACKS if fnmatch.fnmatch(one.name, only)]
    if not chosen:
        _end(f"no class has a name like {only!r}; --list names them", Exit.USAGE)
    if names:
        for one in chosen:
            click.echo(f"{one.name}: {one.title}")
        return
    if os.geteuid() != 0:
        _end("must run as root, to make network namespaces and load kernel programs", Exit.UNABLE)
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        _end(f"needs {', '.join(missing)}: install iproute2, util-linux, nftables and procps", Exit.UNABLE)
    if not any(line.split()[2] == "bpf" for line in Path("/proc/mounts").read_text().splitlines()):
        _end("needs a BPF file system: mount -t bpf bpf /sys/fs/bpf", Exit.UNABLE)
    configure_logs("error", "auto")
    sizes = {**(WITH_ENDS if ends else SIZES), **(SMALLER if small else {})}
    if release is not None:
        compile_for(release, cpus, sizes, click.echo)
        return
    if only_load:
        sys.exit(Exit.OK if load_all(click.echo) else Exit.UNEXPECTED)
    modes = cast("list[Mode]", [mode] if mode else ["tcx", "clsact"])
    rounds, most = (1, 1) if short else (rounds, 2)
    try:
        passed = run(chosen, modes, rounds, click.echo, most=most, sizes=sizes)
    except LoadError as error:
        _end(str(error), Exit.UNABLE)
    sys.exit(Exit.OK if passed else Exit.UNEXPECTED)


def _end(message: str, code: Exit) -> NoReturn:
    click.echo(f"attack: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    # What the attacks have made is removed at the end, also if the command is asked to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.UNEXPECTED))
    main(prog_name="python -m tests.attack")
