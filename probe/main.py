"""The command ``weir-probe``: reads the settings, checks the machine, and runs the probe or ends enforcement."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
import structlog

from enrich.runtime.console import run_console
from enrich.runtime.process import Exit, StopServiceError, configure_logs, fail, only_instance
from enrich.runtime.settings import SettingsError, describe, load
from enrich.runtime.version import version_text
from probe.cni.installation import InstallationError
from probe.cni.plugin import installation, uninstall
from probe.enforcement_end import end_enforcement
from probe.export.raw_topic import check_connection
from probe.kernel.maps import LayoutError
from probe.kernel.program import LoadError
from probe.node.netlink import NetworkError, NodeNetwork
from probe.service import MODES, serve
from probe.settings import Settings

EXIT_CODES: Final = "Exit codes: 0 stopped, 2 bad settings or input, 3 cannot run here, 4 runs already"
log = structlog.get_logger("kubeweir.probe")


def _check_machine(settings: Settings) -> None:
    """Raise StopServiceError for what the user can fix: settings, rights, the kernel, a missing file system."""
    if settings.attach not in MODES:
        raise StopServiceError(f"WEIR_ATTACH={settings.attach!r}: must be auto, tcx or clsact", Exit.USAGE)
    try:
        settings.tunnel_port_numbers()
    except ValueError:
        raise StopServiceError(
            f"WEIR_TUNNEL_PORTS={','.join(settings.tunnel_ports)!r}: must be UDP ports from 1 to 65535, separated by "
            "commas", Exit.USAGE,
        ) from None  # fmt: skip
    if settings.ring_bytes and settings.ring_bytes & (settings.ring_bytes - 1):
        raise StopServiceError(f"WEIR_RING_BYTES={settings.ring_bytes}: must be a power of two", Exit.USAGE)
    for name, size in (
        ("WEIR_CONNECTIONS", settings.connections),
        ("WEIR_DENIED_FLOWS", settings.denied_flows),
        ("WEIR_FRAGMENTS", settings.fragments),
    ):
        if size and size < 4 * (settings.endpoints or 1):
            raise StopServiceError(
                f"{name}={size}: must be at least 4 times WEIR_ENDPOINTS={settings.endpoints or 1}, so that each pod "
                "has a reserved part",
                Exit.USAGE,
            )
    if os.geteuid() != 0:
        raise StopServiceError(
            "must run as root; in a container, root with the capabilities BPF, NET_ADMIN and PERFMON is enough",
            Exit.UNABLE,
        )
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    if release < (5, 10):
        raise StopServiceError(f"kernel {os.uname().release} is too old: kubeweir needs 5.10 or later", Exit.UNABLE)
    if release < (5, 11):
        # From 5.11 on, map memory is charged to the memory cgroup. Before, the probe raises the limit if the kernel
        # lets it (probe.kernel.program).
        log.info("map memory counts against RLIMIT_MEMLOCK on this kernel: raise it if loading fails with EPERM",
                 kernel=os.uname().release)  # fmt: skip
    if not _is_bpffs(settings.pin_dir):
        raise StopServiceError(
            f"{settings.pin_dir} is not in a BPF file system: mount -t bpf bpf /sys/fs/bpf", Exit.UNABLE
        )


def _is_bpffs(path: Path) -> bool:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [(len(fields[1]), fields[2]) for fields in mounts if path.is_relative_to(fields[1])]
    return max(inside)[1] == "bpf"


class _Command(click.Group):
    def format_epilog(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write("\nSettings, from the environment [default]:\n" + describe(Settings) + "\n")
        formatter.write(f"\n{EXIT_CODES}\n")


@click.group(cls=_Command, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version_text(), prog_name="weir-probe")
@click.pass_context
def command(context: click.Context) -> None:
    """Enforce network policy at every pod of this node, and publish every verdict to Kafka.

    The probe runs until SIGTERM. Enforcement then stays in place: the next start adopts it, and `weir-probe detach`
    ends it.
    """
    if context.invoked_subcommand is None:
        context.exit(_run(_serve_command))


@command.command("detach")
@click.pass_context
def detach_command(context: click.Context) -> None:
    """End enforcement: remove every filter, link, map and pin of kubeweir. kubeweir then blocks nothing."""
    context.exit(_run(_detach_command))


@command.command("install-cni")
@click.pass_context
def install_command(context: click.Context) -> None:
    """Put the CNI plugin into the node, or take it out with WEIR_CNI=off. Needs no right but to write its folders."""
    context.exit(_run(_install_command))


def _install_command(settings: Settings) -> None:
    """Install once; the running probe repeats it. The probe starts even if this fails, and reports it."""
    if settings.cni == "off":
        uninstall(settings)
        return
    try:
        installation(settings).install()
    except InstallationError as error:
        log.error("the CNI plugin is not installed: the probe tries again", error=str(error))


def _serve_command(settings: Settings) -> None:
    _check_machine(settings)
    check_connection(settings.connection())
    serve(settings)


def _detach_command(settings: Settings) -> None:
    _check_machine(settings)
    with only_instance(settings.run_dir / "probe.lock"):
        network = NodeNetwork(settings.netns)
        try:
            freed = end_enforcement(settings, network)
        finally:
            network.close()
    click.echo(f"weir-probe: enforcement ended on {freed} pod interfaces, and nothing is pinned any more")


def _run(work: Callable[[Settings], None]) -> int:
    """Run a command with the settings; return its exit code. Foreseeable errors are one line without a stack trace."""
    try:
        settings = load(Settings, os.environ)
        configure_logs(settings.log_level, settings.log_format)
        work(settings)
    except SettingsError as error:
        return fail(StopServiceError(str(error), Exit.USAGE), "weir-probe")
    except StopServiceError as error:
        return fail(error, "weir-probe")
    except LoadError as error:
        log.debug("output of the compiler", log=error.log)
        return fail(StopServiceError(str(error), Exit.UNABLE), "weir-probe")
    except (LayoutError, NetworkError) as error:
        return fail(StopServiceError(str(error), Exit.UNABLE), "weir-probe")
    except OSError as error:
        if error.filename is None:
            raise
        return fail(StopServiceError(f"{error.filename}: {error.strerror}", Exit.UNABLE), "weir-probe")
    return Exit.OK


def main() -> None:
    """Run the console script."""
    run_console("weir-probe", command)
