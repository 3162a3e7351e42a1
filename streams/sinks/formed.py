"""A sink that is given records in another form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streams.sinks.sink import RefusedError, Sink


class FormedSink:
    """Gives a sink each record in the form that a function makes."""

    def __init__(self, sink: Sink, convert: Callable[[bytes], bytes]) -> None:
        """``convert`` is what :func:`streams.forms.converter` returns."""
        self._sink, self._convert = sink, convert

    def write(self, values: Sequence[bytes]) -> None:
        """Write the records in the form. Raises what the sink raises, and RefusedError for what is not a record."""
        try:
            formed = [self._convert(value) for value in values]
        except ValueError as error:
            raise RefusedError(f"the value is not a flow record: {error}") from error
        self._sink.write(formed)

    def close(self) -> None:
        """Close the sink."""
        self._sink.close()
