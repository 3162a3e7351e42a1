"""The commands of the pages about installing, as they stand there, and what is put in for their placeholders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tests.docs.pages import ROOT

_HEADING: Final = re.compile(r"(?m)^#+ +(.+?) *$")
_BLOCK: Final = re.compile(r"(?m)(?:\A|(?<=\n\n))(?: {4}[^\n]*\n)+")
_COMMENT: Final = re.compile(r"\s{2,}#.*$")

SCRIPT: Final = (
    ("README.md", "Install"),
    ("docs/upgrade.md", "Upgrade"),
    ("docs/upgrade.md", "Roll back"),
    ("docs/install.md", "Uninstall"),
)
"""The sections whose commands are run, in this order."""
LEFT_OUT: Final = {
    "deploy/web/libraries": "deploy/image/build runs it",
    "docker build ": "deploy/image/build makes the image instead",
    "docker push ": "deploy/local/cluster loads the image into the nodes instead",
    "kubectl delete -k ": "the story of tests/cluster/whole uninstalls by kustomize",
    "kubectl apply -k ": "the story of tests/cluster/whole detaches by kustomize",
    "kubectl delete crd ": "the chart's default has no such definition",
    "kafka-topics.sh ": "the local Kafka has no shell scripts",
}
"""Beginnings of commands that are not run, and why."""


@dataclass(frozen=True)
class Placeholders:
    """What is put in for the words of the pages that each reader replaces."""

    registry: str
    kafka: str
    namespace: str
    old: str
    """The tag of the image that is installed first."""
    new: str

    def fill(self, command: str) -> str:
        """Return a command of a page for this cluster."""
        command = command.replace("REGISTRY/", f"{self.registry}/").replace("KAFKA:9092", self.kafka)
        command = re.sub(r"\bNEW\b", self.new, re.sub(r"\bOLD\b", self.old, command))
        command = command.replace("image.tag=latest", f"image.tag={self.old}")
        return re.sub(r"(-n |\bnamespace |--serviceaccount=)kubeweir\b", rf"\g<1>{self.namespace}", command)


def commands(page: str, heading: str) -> list[str]:
    """Return the commands of one section: the lines of its indented blocks, without comments."""
    parts = _HEADING.split((ROOT / page).read_text())
    section = dict(zip(parts[1::2], parts[2::2], strict=True))[heading]
    lines = "".join(_BLOCK.findall(section)).splitlines()
    return [_COMMENT.sub("", line).strip() for line in lines]


def why_left_out(command: str) -> str | None:
    """Return why a command is not run; None if it is run."""
    return next((why for beginning, why in LEFT_OUT.items() if command.startswith(beginning)), None)
