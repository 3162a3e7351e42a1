"""Forms of a record for programs that expect a published one. Each form is a function of the record, and a module.

Every output that takes `form` uses :func:`converter`, so that a form means the same in a file and on a topic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal

from enrich.wire.flow import Flow
from streams.forms.cef import to_cef
from streams.forms.ecs import to_ecs
from streams.forms.ocsf import to_ocsf
from streams.forms.reading import read_record

Form = Literal["record", "ecs", "ocsf", "cef"]
"""``record`` is the record as it is on Kafka."""
FORMS: Final[Mapping[Form, Callable[[Flow], bytes]]] = {"ecs": to_ecs, "ocsf": to_ocsf, "cef": to_cef}
"""How a record gets each other form."""


def converter(form: Form) -> Callable[[bytes], bytes] | None:
    """Return the function that gives a record's bytes another form; None for ``record``.

    The function raises ValueError for bytes that are not a record."""
    if form == "record":
        return None
    render = FORMS[form]
    return lambda value: render(read_record(value))
