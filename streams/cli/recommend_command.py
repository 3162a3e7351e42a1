"""`weir recommend`: the least NetworkPolicies that allow what was seen, with their evidence and their proof."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from enrich.history.advice import manifest
from enrich.history.advice.permits import Style
from enrich.history.advice.proof import Proof, prove
from enrich.history.advice.recommend import Advice
from enrich.history.advice.recommend import recommend as advise
from enrich.history.advice.traffic import Traffic, traffic_of
from enrich.history.stand_ins import Known
from enrich.model import NetworkPolicy
from enrich.parse.manifest import read_manifest
from enrich.policy.matching import PolicyView
from streams.cli.advice_window import CANNOT_SAY, CannotSayError, Window, run_in_window, window_options
from streams.cli.recommended_json import Json, as_json
from streams.cli.recommended_text import Frame, UnfaithfulError, as_yaml, proof_lines, read_back
from streams.cli.terminal import say

UNPROVEN: Final = 1


@click.command()
@click.option("-n", "--namespace", help="Only for this namespace. [all that have pods in the pairs]")
@click.option(
    "--style",
    type=click.Choice(["workload", "namespace"]),
    default="workload",
    show_default=True,
    help="A policy for each workload, with workloads as peers; or one for a namespace, with namespaces as peers.",
)
@click.option("--audit", is_flag=True, help="Annotate the policies kubeweir.io/mode: audit: log what they would deny.")
@click.option(
    "--output-dir", type=click.Path(file_okay=False, path_type=Path), help="Write NAMESPACE.yaml into this folder."
)
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
@window_options
def recommend(
    namespace: str | None, style: Style, output_dir: Path | None, output: str, *, audit: bool, **given: Any
) -> None:
    """Print the least NetworkPolicies that allow what was seen, one document for each workload.

    They are meant instead of the NetworkPolicies that the namespace has now. Each rule has its evidence in a comment;
    what is left out is named with its reason. What was denied is never allowed. Before anything is printed, the
    policies judge all that was seen; standard error has the result. Nothing is applied. Workers note what was seen if
    they have WEIR_PAIRS=1. Times are UTC.

    \b
    Exit 0: they allow all that was allowed, and nothing that was denied. 1: they do not, and it says what.
    2: the command is wrong. 3: it cannot say: of something that was seen (it says of what), or because Kafka cannot be
    read, or has nothing of this window.
    """

    def answer(window: Window) -> int:
        return _answer(window, namespace, style, output_dir, output, audit=audit)

    run_in_window(given, answer)


def _answer(
    window: Window, namespace: str | None, style: Style, folder: Path | None, output: str, *, audit: bool
) -> int:
    view, known = window.view(None if namespace is None else [namespace]), window.past.known
    traffic = traffic_of(window.pairs(), known.profiles, namespace)
    advice = advise(view, known, traffic, style)
    if not advice:
        raise CannotSayError(f"nothing was seen that policies could be made of{_in(namespace)} in this window")
    frame = Frame(
        window.cluster, window.since_ns, window.until_ns, known.profiles, audit, window.notes, window.for_reader
    )
    found = [_Printed.of(view, known, one, traffic.of(one.namespace), frame) for one in advice]
    say([*window.notes, *(line for one in found for line in one.lines(frame))])
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for one in found:
            (folder / f"{one.advice.namespace}.yaml").write_text(one.text)
    elif output == "yaml":
        click.echo("".join(one.text for one in found), nl=False)
    if output == "json":
        click.echo(json.dumps([one.json(frame) for one in found]))
    return _exit_code([one.proof for one in found])


def _exit_code(proofs: Sequence[Proof]) -> int:
    if not all(one.is_complete for one in proofs):
        return UNPROVEN
    return CANNOT_SAY if any(one.unclear for one in proofs) else 0


@dataclass(frozen=True, slots=True)
class _Printed:
    """The advice for one namespace, as it is printed."""

    advice: Advice
    traffic: Traffic
    proof: Proof
    text: str

    @classmethod
    def of(cls, view: PolicyView, known: Known, advice: Advice, traffic: Traffic, frame: Frame) -> _Printed:
        """Prove the policies as the strict parser reads them, and write them."""
        documents = (manifest.document(policy, audit=frame.audit) for policy in advice.policies)
        parsed = [made for made, _ in map(read_manifest, documents) if isinstance(made, NetworkPolicy)]
        proof = prove(view, known, traffic, parsed, [advice.namespace])
        text = as_yaml(advice, traffic, proof, frame)
        if read_back(text, advice, audit=frame.audit) != parsed:
            raise UnfaithfulError(f"the YAML for namespace {advice.namespace} is not what was proven")
        return cls(advice, traffic, proof, text)

    def json(self, frame: Frame) -> Json:
        """Return all of it, with the text of the policies."""
        return {**as_json(self.advice, self.traffic, self.proof, frame), "yaml": self.text}

    def lines(self, frame: Frame) -> Iterator[str]:
        """Yield what the proof found, for standard error."""
        yield from (f"{self.advice.namespace}: {line}" for line in proof_lines(self.proof, frame.profiles))


def _in(namespace: str | None) -> str:
    return f" in namespace {namespace}" if namespace else ""
