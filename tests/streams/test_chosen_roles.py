"""Which roles run, and which are refused before anything starts."""

from __future__ import annotations

from click.testing import CliRunner

from enrich.runtime.process import Exit
from streams.main import command, default_roles
from streams.settings import Settings


def test_without_a_journal_the_role_neither_runs_nor_can_be_named() -> None:
    assert "journal" in default_roles(Settings())
    assert "journal" not in default_roles(Settings(journal_days=0))
    env = {"WEIR_KAFKA": "127.0.0.1:1", "WEIR_JOURNAL_DAYS": "0"}
    done = CliRunner().invoke(command, ["journal", "--alone"], env=env)
    assert done.exit_code == Exit.USAGE
    assert "the role journal cannot run with WEIR_JOURNAL_DAYS=0" in done.stderr
