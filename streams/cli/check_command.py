"""`weir check`: find what is wrong in the policies of a folder before anybody applies them."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from rich.text import Text

from enrich.checking.check import check as find
from enrich.checking.finding import RULES, UNREADABLE, Finding
from enrich.model import Namespace
from enrich.parse.spelling import nearest
from enrich.runtime.console import leave_stdout
from enrich.sources.repository import Repository, read_repository, skipped_text
from streams.cli.check_reports import as_json, as_junit, as_sarif, log_text
from streams.cli.terminal import PipeConsole, counted, say

FINDINGS: Final = 1
NOT_READ: Final = 2
_NO_OUTPUT: Final = 3
_STYLES: Final = {"error": "bold red", "warning": "yellow"}
_REPORTS: Final[dict[str, Callable[[Repository, Sequence[Finding], Sequence[str]], str]]] = {
    "json": as_json,
    "sarif": as_sarif,
    "junit": as_junit,
}


@dataclass(frozen=True, slots=True)
class _Checked:
    repository: Repository
    findings: list[Finding]
    notes: list[str]
    namespace: str | None = None
    """Whose findings these are; None: all."""

    def exit_code(self, *, strict: bool) -> int:
        """Return the exit code. A file that cannot be read may have any policy in it."""
        if _is_empty(self.repository, self.namespace) or any(one.rule is UNREADABLE for one in self.findings):
            return NOT_READ
        counted = ("error", "warning") if strict else ("error",)
        return FINDINGS if any(one.rule.level in counted for one in self.findings) else 0


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(allow_dash=True, path_type=Path), metavar="FOLDER|FILE|-...")
@click.option("-n", "--namespace", help="Leave out what is about objects of other namespaces, or of the whole cluster.")
@click.option("--strict", is_flag=True, help="Warnings count for the exit code, too.")
@click.option(
    "--ignore",
    "ignored",
    multiple=True,
    type=click.Choice([rule.id for rule in RULES if rule is not UNREADABLE]),
    metavar="RULE",
    help="Leave out the findings of a rule. Repeatable.",
)
@click.option("--rules", "shows_rules", is_flag=True, help="Show all rules, and check nothing.")
@click.option("-o", "--output", type=click.Choice(["text", *_REPORTS]), default="text", show_default=True)
def check(
    paths: Sequence[Path],
    namespace: str | None,
    ignored: Collection[str],
    output: str,
    *,
    strict: bool,
    shows_rules: bool,
) -> None:
    """Find what is wrong in the policies of a repository. - reads the output of Helm or kustomize from standard input.

    Files may have objects of all kinds. Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs and Pods say
    which pods there will be; what else is not needed is counted. No cluster is asked, and nothing is applied. What is
    not in the files is not judged.

    \b
    Exit 0: nothing, or only warnings. 1: errors, or with --strict warnings. 2: the command is wrong, or something
    cannot be read. 3: the answer cannot be written.
    """
    if shows_rules:
        for rule in RULES:
            click.echo(f"{rule.id:24} {rule.level:8} {rule.text}")
        return
    if not paths:
        raise click.UsageError("name at least one FOLDER or FILE, or - for standard input")
    try:
        try:
            answer = _answer(paths, namespace, ignored)
        except OSError as error:
            say([log_text(f"not everything can be read: {error}")])
            sys.exit(NOT_READ)
        _print(answer, output)
        sys.stdout.flush()
    except BrokenPipeError:
        leave_stdout()
    except OSError as error:
        leave_stdout()
        say([f"the answer cannot be written: {error}"])
        sys.exit(_NO_OUTPUT)
    except Exception:
        # Exit 1 means findings, so that nothing else may end with it.
        traceback.print_exc()
        sys.exit(NOT_READ)
    sys.exit(answer.exit_code(strict=strict))


def _answer(paths: Sequence[Path], namespace: str | None, ignored: Collection[str]) -> _Checked:
    repository = read_repository(paths)
    findings = [one for one in find(repository) if one.rule.id not in ignored]
    own = [one for one in findings if namespace is None or one.namespace in (namespace, None)]
    notes = [*_notes(repository, namespace), *_left_out_note(len(findings) - len(own))]
    return _Checked(repository, own, notes, namespace)


def _is_empty(repository: Repository, namespace: str | None) -> bool:
    """Return whether no file has an object to check: of a namespace, or at all. A namespace that is mistyped has
    none."""
    if namespace is None:
        return not repository.written and not repository.problems
    return namespace not in {*_namespaces(repository), *(one.namespace for one in repository.problems)}


def _namespaces(repository: Repository) -> set[str]:
    """Return the namespaces that have an object in the files, or are one."""
    found = {name if kind == Namespace.__name__ else namespace for kind, namespace, name in repository.written}
    return found - {""}


def _notes(repository: Repository, namespace: str | None) -> Iterator[str]:
    """Yield what a person must know about the answer."""
    if _is_empty(repository, namespace):
        if namespace is None:
            yield "nothing to check: no file has an object of a kind that policies depend on"
        else:
            near = nearest(namespace, sorted(_namespaces(repository)))
            hint = f"; did you mean {near}?" if near else ""
            yield f"nothing to check: no file has an object of namespace {namespace}{hint}"
    if repository.skipped:
        yield f"not read, because policies do not depend on it: {skipped_text(repository.skipped)}"
    if repository.unsure_everywhere:
        yield f"what selects nothing cannot be said: {repository.unsure_everywhere}"
        return
    for one, why in sorted(repository.unsure.items()):
        if namespace in (one, None):
            yield f"what selects nothing in namespace {one} cannot be said: {why}"


def _left_out_note(count: int) -> Iterator[str]:
    if count:
        yield f"left out: {counted(count, 'finding')} of other namespaces or of the whole cluster"


def _print(answer: _Checked, output: str) -> None:
    if output != "text":
        click.echo(_REPORTS[output](answer.repository, answer.findings, answer.notes))
        return
    console = PipeConsole(highlight=False)
    for style, line in _lines(answer.findings):
        console.print(Text(log_text(line), style=style), soft_wrap=True)
    counts = Counter(one.rule.level for one in answer.findings)
    found = " and ".join(counted(counts[level], level) for level in ("error", "warning"))
    of = counted(len(answer.repository.written), "object")
    whose = f" for namespace {answer.namespace}" if answer.namespace is not None else ""
    console.print(f"{found}{whose} in {of} of {counted(answer.repository.files, 'file')}", soft_wrap=True)
    say([log_text(note) for note in answer.notes])


def _lines(findings: Sequence[Finding]) -> Iterator[tuple[str, str]]:
    """Yield styles and lines: each finding with its place as editors and CI systems understand it."""
    for one in findings:
        about = f"{one.subject}: " if one.subject else ""
        where = f"{one.place.file_and_line}{f' (document {one.place.document})' if one.place.document > 1 else ''}"
        yield _STYLES[one.rule.level], f"{where}: {one.rule.level}: {about}{one.text} [{one.rule.id}]"
        if one.todo:
            yield "", f"    {one.todo}"
