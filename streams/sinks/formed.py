"""A sink that is given records in another form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from enrich.wire.flow import Flow
from streams.sinks.sink import Sink, decode


class FormedSink:
    """Gives a sink each record in the form that a function makes."""

    def __init__(self, sink: Sink, form: Callable[[Flow], bytes]) -> None:
        self._sink, self._form = sink, form

    def write(self, values: Sequence[bytes]) -> None:
        """Write the records in the form. Raises what the sink raises, and RefusedError for what is not a record."""
        self._sink.write([self._form(decode(value)) for value in values])

    def close(self) -> None:
        """Close the sink."""
        self._sink.close()
