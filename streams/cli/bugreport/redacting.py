"""Replaces names and addresses by pseudonyms, the same in every part of a report.

Theory of operation. First every part is looked through for names: values of fields and labels that name something
(:data:`FIELDS`), and of every label of a metric that is not known to have a fixed set of values. Then all parts are
rewritten: each name that was found, wherever it stands between characters that are neither letters nor digits, and
everything that looks like an address or a UID. So a name in the middle of a sentence is replaced as well, if it was
found at all. Too much is replaced rather than too little: a pod called `ok` makes some sentences hard to read.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any, Final

FIELDS: Final = {"cluster": "cluster", "node": "node", "worker": "worker", "namespace": "namespace", "pod": "pod"}
"""Fields of JSON whose values are names, with the kind of each."""
SAFE_LABELS: Final = frozenset(
    {
        "by", "call", "certificate", "check", "direction", "disposition", "event", "generation", "implementation",
        "kind", "le", "limit", "major", "map", "minor", "outcome", "patchlevel", "quantile", "reason", "result", "role",
        "verdict", "version",
    }
)  # fmt: skip
"""Labels of metrics whose values are ours. All others are taken for names."""
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ADDRESS: Final = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}(?!\w)|[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}(?![\w:]))"
)
_UID: Final = re.compile(r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b")
_HOST: Final = re.compile(r"host='([^']+)'")
_OWN_WORDS: Final = frozenset({"", "kubeweir", "true", "false", "other", "_other", "unknown", "none"})


class Pseudonyms:
    """The names that were found, and what stands for each."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._pattern: re.Pattern[str] | None = None

    def as_dict(self) -> dict[str, str]:
        """Return the names by their pseudonyms."""
        return {pseudonym: name for name, pseudonym in self._names.items()}

    def learn(self, name: str, kind: str) -> None:
        """Note a name."""
        if name.lower() not in _OWN_WORDS and name not in self._names:
            self._new(name, kind)
            self._pattern = None

    def learn_json(self, value: Any) -> None:
        """Note the names in a document: in fields that name something, and in keys such as `NetworkPolicy shop/web`."""
        if isinstance(value, list):
            for one in value:
                self.learn_json(one)
        elif isinstance(value, dict):
            for key, one in value.items():
                if key in FIELDS and isinstance(one, str):
                    self.learn(one, FIELDS[key])
                elif "/" in key:
                    self._learn_object(key)
                self.learn_json(one)

    def _learn_object(self, key: str) -> None:
        """Note the parts of the name of an object, with its kind or without."""
        namespace, _, name = key.rpartition(" ")[2].partition("/")
        self.learn(namespace, "namespace")
        self.learn(name, "object")

    def learn_metrics(self, text: str) -> None:
        """Note the names in the labels of metrics."""
        for line in text.splitlines():
            for label, value in () if line.startswith("#") else _LABEL.findall(line):
                if label not in SAFE_LABELS:
                    for part in value.split("/"):
                        self.learn(part, FIELDS.get(label, "name"))

    def hidden(self, text: str) -> str:
        """Return a text with everything replaced that is known or looks like an address or a UID."""
        for host in _HOST.findall(text):  # as errors of HTTP have it
            self.learn(host, "host")
        if self._pattern is None:
            # The longest first: web-0 is a pod of its own, and not the pod web with something behind it.
            names = sorted(self._names, key=len, reverse=True)
            alternatives = "|".join(map(re.escape, names)) or r"(?!)"
            self._pattern = re.compile(rf"(?<![A-Za-z0-9])(?:{alternatives})(?![A-Za-z0-9])")
        text = self._pattern.sub(lambda found: self._names[found[0]], text)
        text = _UID.sub(lambda found: self._new(found[0], "uid"), text)
        return _ADDRESS.sub(self._address, text)

    def hidden_json(self, value: Any) -> Any:
        """Return a document with all its texts, and its keys that name objects, as :meth:`hidden` returns them."""
        if isinstance(value, list):
            return [self.hidden_json(one) for one in value]
        if isinstance(value, dict):
            return {self.hidden(key) if "/" in key else key: self.hidden_json(one) for key, one in value.items()}
        return self.hidden(value) if isinstance(value, str) else value

    def _address(self, found: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(found[0])
        except ValueError:
            return found[0]  # a time, or a version
        return found[0] if address.is_loopback or address.is_unspecified else self._new(found[0], "address")

    def _new(self, name: str, kind: str) -> str:
        if name not in self._names:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._names[name] = f"{kind}-{self._counts[kind]}"
        return self._names[name]


def hosts(servers: Iterable[str]) -> list[str]:
    """Return the hosts of addresses such as kafka-1.example:9092."""
    return [one.rpartition("://")[2].rpartition(":")[0].strip("[]") or one for one in servers]
