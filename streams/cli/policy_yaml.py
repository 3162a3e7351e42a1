"""Policies as YAML, for people who read them, and who hand them to kubectl."""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from enrich.model import Policy
from enrich.parse.manifest_of import manifest_of

_HEAD: Final = (
    "# From kubeweir's journal: all that the policy engine reads.\n# Left out: labels, other annotations, status.\n"
)
_READ_OTHERWISE: Final = re.compile("[yYnN]|[-+.]?[.]?[0-9][^/]*")
"""Texts that kubectl takes for a truth value or a number, and this library for a text: y, 1e3, 0o17."""


class _Dumper(yaml.CSafeDumper):
    """Quotes what any reader of YAML may take for something else than a text."""


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    style = "'" if _READ_OTHERWISE.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)


def dumped(part: Any) -> str:
    """Return YAML of a part of a policy. Names and labels come from the cluster: in ASCII none looks like another."""
    return yaml.dump(part, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=False, width=1_000)


def policy_yaml(policy: Policy) -> str:
    """Return the YAML of a policy of the journal; empty if it cannot be whole, because a part could not be read."""
    made = manifest_of(policy)
    return "" if made is None else _HEAD + dumped(made)
