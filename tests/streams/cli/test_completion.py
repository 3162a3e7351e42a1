"""`weir completion`: a real bash completes commands and options, and the names of commands cost no heavy import."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import FishComplete, ZshComplete
from click.testing import CliRunner

from streams.cli.main import _MODULES, command

pytestmark = pytest.mark.timeout(600)
HEAVY = ("confluent_kafka", "faust", "kubernetes", "msgspec", "numpy", "yaml")


def in_shell(shell: str, script: str) -> list[str]:
    """Run a script in a real shell that finds `weir`, and return its lines."""
    path = f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        [shell, "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
    )
    return done.stdout.splitlines()


def test_bash_completes_a_command_and_an_option() -> None:
    script = """
        source <(weir completion bash)
        complete -p weir
        try() { COMPREPLY=(); COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _weir_completion weir; echo "${COMPREPLY[*]}"; }
        try weir ob
        try weir observe --dir
    """
    assert in_shell("bash", script) == ["complete -o nosort -F _weir_completion weir", "observe", "--direction"]


def test_zsh_and_fish_take_the_script_where_they_are_installed() -> None:
    if shutil.which("fish"):
        assert in_shell("fish", "weir completion fish | source; complete -C 'weir ob'") == ["observe"]
    if shutil.which("zsh"):
        script = "autoload -Uz compinit; compinit -u -D; source <(weir completion zsh); echo $_comps[weir]"
        assert in_shell("zsh", script) == ["_weir_completion"]


@pytest.mark.parametrize("kind", [ZshComplete, FishComplete])
def test_what_the_other_shells_ask_for_is_answered(
    kind: type[ZshComplete | FishComplete], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the words that their scripts hand over."""
    monkeypatch.setenv("COMP_WORDS", "weir ob")
    monkeypatch.setenv("COMP_CWORD", "1" if kind is ZshComplete else "ob")
    answer = kind(command, {}, "weir", "_WEIR_COMPLETE").complete()
    assert "observe" in answer.replace("\n", ",").split(",")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_weir(shell: str) -> None:
    result = CliRunner().invoke(command, ["completion", shell])
    assert result.exit_code == 0
    assert f"_WEIR_COMPLETE={shell}_complete" in result.stdout


def test_names_need_no_heavy_import_and_no_command_needs_bcc_or_the_probe() -> None:
    """On a laptop: bcc comes from the operating system of a node, and the probe is for nodes."""
    script = f"""
        import importlib, sys
        for name in ("bcc", "bpf", "probe", "pyroute2"):
            sys.modules[name] = None  # its import raises
        from click.shell_completion import BashComplete
        from streams.cli.main import command
        print(BashComplete(command, {{}}, "weir", "_WEIR_COMPLETE").complete())
        print([name for name in {HEAVY} if name in sys.modules])
        for module in {sorted(_MODULES.values())}:
            importlib.import_module(f"streams.cli.{{module}}")
    """
    env = {**os.environ, "COMP_WORDS": "weir d", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(line[8:] for line in script.splitlines())],
        capture_output=True, text=True, check=True, env=env, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    *names, heavy = done.stdout.splitlines()
    assert {"plain,diff", "plain,doctor", "plain,dead"} <= set(names)
    assert heavy == "[]"
