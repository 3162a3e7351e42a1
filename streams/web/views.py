"""The views of the page: each has an address, a tab, a file in ``pages`` and a module in ``static``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Final

PAGES: Final = Path(__file__).parent / "pages"


@dataclass(frozen=True, slots=True)
class View:
    """A view. A link to its address shows it."""

    name: str
    """``pages/NAME.html`` is what it shows, and ``static/NAME.js`` fills it."""
    path: str
    title: str
    heading: str
    """What a screen reader reads first."""
    styles: tuple[str, ...] = ("style.css",)
    """Its style sheets in ``static``."""


VIEWS: Final[Sequence[View]] = (
    View("live", "/", "Live", "Verdicts as they arrive", ("vendor/uplot/uPlot.min.css", "style.css")),
    View("map", "/map", "Map", "Who talked to whom", ("style.css", "map.css")),
    View("policies", "/policies", "Policies", "Policies, and how they were used", ("style.css", "policies.css")),
    View("health", "/health", "Health", "Whether everything is in the log, and every pod under policy"),
)
"""In the order of their tabs."""
PATHS: Final = frozenset(view.path for view in VIEWS)


def documents() -> dict[str, str]:
    """Return the HTML of each view by its path: the shell that all share, with the view's own part in it."""
    shell = Template((PAGES / "shell.html").read_text())
    return {
        view.path: shell.substitute(
            name=view.name,
            title=escape(view.title),
            heading=escape(view.heading),
            styles="".join(f'  <link rel="stylesheet" href="/static/{escape(one)}">\n' for one in view.styles),
            tabs="".join(_tab(one, is_chosen=one is view) for one in VIEWS),
            view=(PAGES / f"{view.name}.html").read_text(),
        )
        for view in VIEWS
    }


def _tab(view: View, *, is_chosen: bool) -> str:
    chosen = ' aria-current="page"' if is_chosen else ""
    return f'<a href="{escape(view.path)}"{chosen}>{escape(view.title)}</a>'
