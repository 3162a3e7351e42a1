"""The three commands say how they are used and which version they are."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from deploy.release.tree import ROOT, version_of
from enrich.runtime.version import version_text
from probe.main import command as weir_probe
from streams.cli.main import command as weir
from streams.main import command as weir_streams
from tests import cni

COMMANDS = {"weir": weir, "weir-probe": weir_probe, "weir-streams": weir_streams}


@pytest.mark.parametrize(("name", "command"), COMMANDS.items())
def test_h_and_help_say_the_same(name: str, command: click.Command) -> None:
    short = CliRunner().invoke(command, ["-h"], prog_name=name)
    assert short.exit_code == 0
    assert short.output.startswith(f"Usage: {name}")
    assert short.output == CliRunner().invoke(command, ["--help"], prog_name=name).output


@pytest.mark.parametrize(("name", "command"), COMMANDS.items())
def test_version_names_the_command_and_its_version(name: str, command: click.Command) -> None:
    done = CliRunner().invoke(command, ["--version"])
    assert done.exit_code == 0
    assert done.output == f"{name}, version {version_text()}\n"


def test_weir_version_prints_the_version_alone() -> None:
    assert CliRunner().invoke(weir, ["version"]).output == f"{version_text()}\n"


def test_the_cni_plugin_says_its_version_too() -> None:
    done = subprocess.run(
        [cni.program(), "--version"], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    assert done.stdout == f"weir-cni, version {version_of(ROOT)}\n"


@pytest.mark.parametrize(
    ("module", "redirect", "code", "said"),
    [
        ("streams.cli.main", "> /dev/full", 3, "weir: standard output cannot be written: No space left on device"),
        ("streams.main", "> /dev/full", 3, "weir-streams: standard output cannot be written"),
        ("streams.cli.main", ">&-", 0, ""),
    ],
)
def test_an_output_that_takes_nothing_is_one_line_and_an_exit_code(
    module: str, redirect: str, code: int, said: str
) -> None:
    run = f"{sys.executable} -c 'from {module} import main; main()' --help {redirect}"
    done = subprocess.run(["sh", "-c", run], stderr=subprocess.PIPE, timeout=240, check=False, text=True)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == (1 if said else 0)
