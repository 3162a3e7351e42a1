"""Forms of a record for programs that expect a published one. Each form is a function of the record, and a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal

from enrich.wire.flow import Flow
from streams.forms.cef import to_cef
from streams.forms.ecs import to_ecs
from streams.forms.ocsf import to_ocsf

Form = Literal["record", "ecs", "ocsf", "cef"]
"""``record`` is the record as it is on Kafka."""
FORMS: Final[Mapping[Form, Callable[[Flow], bytes]]] = {"ecs": to_ecs, "ocsf": to_ocsf, "cef": to_cef}
"""How a record gets each other form."""
