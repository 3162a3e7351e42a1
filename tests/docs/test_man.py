"""The manual pages have every command, option and setting, and are valid roff."""

from __future__ import annotations

import re
import shutil
import subprocess

import click
import pytest

import probe.settings
import streams.settings
from enrich.runtime.settings import described
from streams.cli.main import command as weir
from tests.docs import man
from tests.docs.pages import ROOT

PAGES = sorted(man.files())


def plain(name: str) -> str:
    """Return a page's text as a reader sees it, without requests and escapes."""
    text = re.sub(r"\\f[BR]", "", (ROOT / name).read_text())
    for escape, letter in {"\\-": "-", "\\(aq": "'", "\\(ga": "`", "\\(ha": "^", "\\(ti": "~", "\\&": ""}.items():
        text = text.replace(escape, letter)
    return text.replace("\\e", "\\")


def test_the_page_of_weir_has_every_command_and_each_of_its_options() -> None:
    text = plain("deploy/man/weir.1")
    context = click.Context(weir, info_name="weir", **weir.context_settings)
    for name in weir.list_commands(context):
        one = weir.get_command(context, name)
        assert one is not None
        section = text.partition(f"\n.SS weir {name}\n")[2].partition("\n.SS weir ")[0]
        names = [option for param in one.params if isinstance(param, click.Option) for option in param.opts]
        hidden = [option for param in one.params if getattr(param, "hidden", False) for option in param.opts]
        missing = [option for option in names if option not in {*hidden, *re.split(r"[\s,/]+", section)}]
        assert (name, missing, bool(section)) == (name, [], True)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("deploy/man/weir-probe.8", probe.settings.Settings),
        ("deploy/man/weir-streams.8", streams.settings.Settings),
    ],
)
def test_the_page_of_a_service_has_every_setting(name: str, settings: type) -> None:
    text = plain(name)
    assert [one.variable for one in described(settings) if f"\n{one.variable}" not in text] == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_control_character_and_no_line_that_begins_a_request_by_chance(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    assert all(line.isprintable() for line in lines)
    known = {".TH", ".ad", ".SH", ".SS", ".PP", ".TP", ".nf", ".fi", '.\\"'}
    assert {line.split(" ")[0] for line in lines if line[:1] in (".", "'")} <= known


@pytest.mark.parametrize("name", PAGES)
def test_mandoc_takes_a_page_without_a_warning(name: str) -> None:
    command = ["mandoc", "-T", "lint", "-W", "warning", str(ROOT / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


@pytest.mark.skipif(not (shutil.which("man") and shutil.which("groff")), reason="needs Debian's man-db")
@pytest.mark.parametrize("name", PAGES)
def test_man_shows_a_page_without_a_warning(name: str) -> None:
    command = ["man", "--warnings", "-E", "UTF-8", "-l", str(ROOT / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "SEE ALSO" in done.stdout
