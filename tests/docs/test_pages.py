"""What a stranger looks for has its place: README's headings, ten changes, five attackers, a decision's parts."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from streams.cli.custody_text import HEADINGS
from streams.cli.main import command as weir
from tests.docs.pages import ROOT, Page, page, pages

DECISIONS = [one for one in pages() if re.match(r"docs/decisions/[0-9]", one.name)]


def test_the_first_screen_says_what_it_is_and_the_two_commands() -> None:
    screen = "\n".join(page("README.md").text.splitlines()[:30])
    for text in ("**It is for**", "**It replaces**", "**It adds to**", "make demo", "make test"):
        assert text in screen


def test_the_readme_has_a_heading_with_links_for_each_need() -> None:
    sections = page("README.md").sections(2)
    for heading in ("Quickstart", "Install", "Operate", "Security", "Reference", "Limits"):
        assert heading in sections
        assert "](" in sections[heading] or heading == "Quickstart"


def test_ten_changes_name_the_files_that_they_touch() -> None:
    changes = {title: text for title, text in page("CONTRIBUTING.md").sections(3).items() if re.match(r"\d+\. ", title)}
    assert [int(title.split(".")[0]) for title in changes] == list(range(1, 11))
    for title, text in changes.items():
        assert re.search(r"`(?:probe|enrich|streams|bpf)/", text), title


def test_the_threat_model_says_of_each_attacker_what_he_can_and_cannot() -> None:
    attackers = page("SECURITY.md").sections(3)
    assert len(attackers) == 5
    for title, text in attackers.items():
        assert "- **Cannot** " in text, title
        assert "- **Can**" in text, title


@pytest.mark.parametrize("one", DECISIONS, ids=lambda one: one.name)
def test_a_decision_has_its_four_parts_and_is_listed(one: Page) -> None:
    assert list(one.sections(2)) == ["Context", "Decision", "Measurement", "Consequences"]
    assert one.path.name in page("docs/decisions/README.md").text


def test_the_example_in_the_readme_is_what_the_command_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = (block for block in re.findall(r"```\n(.*?)```", page("README.md").text, re.DOTALL))
    command, *lines = example.splitlines()
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(weir, command.removeprefix("$ weir ").split())
    assert done.exit_code == 1
    printed = done.output.splitlines()
    for line in lines:
        assert line == "..." or line in printed


def test_the_example_of_the_status_page_has_the_columns_of_the_command() -> None:
    assert " ".join(HEADINGS) in " ".join(page("docs/status.md").text.split())
