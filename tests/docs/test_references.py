"""What docstrings and comments refer to exists: the names in ``:class:`` and the like, modules, and files.

A name counts as existing if the module that it is looked up in has it as an identifier outside of strings: this is
cheap, needs no import, and finds what a rename left behind.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

ROOMS = ("probe", "enrich", "streams", "bpf")
_FOLDERS = "|".join((*ROOMS, "tests", "deploy", "docs"))
_ROLE = re.compile(r":(?:class|func|meth|data|mod|attr|exc):`~?([\w.]+)`")
_FILE = re.compile(rf"(?<![\w/.])(?:{_FOLDERS})/[\w./-]+\.(?:py|h|c|md|yaml|yml|json|env|svg)\b")
_DOTTED = re.compile(rf"(?<![\w/.])(?:{'|'.join(ROOMS)})(?:\.[A-Za-z_]\w*)+(?![\w/(])")
PYTHON = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
C = sorted((ROOT / "bpf").glob("*.[ch]"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def identifiers(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).rpartition(".")[2])
    return found


@cache
def modules() -> dict[str, set[str]]:
    return {module_name(path): identifiers(ast.parse(path.read_text())) for path in PYTHON}


def exists(name: str, module: str, package: str) -> bool:
    """Return whether a reference in ``module``, which lies in ``package``, leads somewhere."""
    if name.startswith("."):
        name = package + name
    steps = name.split(".")
    if steps[0] in ROOMS:
        for length in range(len(steps), 0, -1):
            known = modules().get(".".join(steps[:length]))
            if known is not None:
                return known.issuperset(steps[length:])
        return False
    if steps[0] in sys.stdlib_module_names or hasattr(builtins, steps[0]):
        return True
    return name in sys.modules or modules()[module].issuperset(steps)


def comments(text: str) -> str:
    """Return the comments of C code."""
    return "\n".join(re.findall(r"/\*.*?\*/", text, re.DOTALL))


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_reference_in_a_module_leads_somewhere(path: Path) -> None:
    text, module = path.read_text(), module_name(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    assert [name for name in _ROLE.findall(text) if not exists(name, module, package)] == []
    assert [name for name in _FILE.findall(text) if not (ROOT / name).exists()] == []
    assert [name for name in re.findall(rf"``({_DOTTED.pattern})``", text) if not exists(name, module, package)] == []


@pytest.mark.parametrize("path", C, ids=lambda path: path.name)
def test_every_reference_in_a_comment_of_c_leads_somewhere(path: Path) -> None:
    text = comments(path.read_text())
    files = [name for name in _FILE.findall(text) if not (ROOT / name).exists()]
    assert files == []
    assert [name for name in _DOTTED.findall(text) if not exists(name, "bpf", "bpf") and name not in files] == []


def test_a_dead_reference_is_found() -> None:
    assert exists("enrich.wire.batch.Reason", "bpf", "bpf")
    assert not exists("enrich.wire.batch.Raison", "bpf", "bpf")
    assert not exists("enrich.wired", "bpf", "bpf")
    assert not exists(".registrar", "streams.sinks", "streams.sinks")
