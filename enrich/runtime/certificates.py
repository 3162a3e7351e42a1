"""When the certificates on disk expire, as a metric, and OpenSSL's numbers for those that it refuses.

The end of a certificate's validity is read from its DER form (RFC 5280, 4.1): Python's ssl does not show it for a
certificate of one's own.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

NOT_VALID_NOW: Final = frozenset({9, 10})
"""OpenSSL's numbers for a certificate that is not valid yet, or has expired (X509_V_ERR_...)."""
FOR_ANOTHER_NAME: Final = frozenset({62, 64})
"""OpenSSL's numbers for a certificate that is for another host name or another address."""
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
"""Tags of DER."""


def first_end(path: Path) -> float | None:
    """Return the Unix time at which the first of a PEM file's certificates expires; None if it has none."""
    try:
        found = [_end(base64.b64decode(body)) for body in _PEM.findall(path.read_bytes())]
    except (OSError, ValueError, IndexError):
        return None
    return min(found, default=None)


def _end(certificate: bytes) -> float:
    """Return notAfter of a certificate in DER. Raises ValueError or IndexError for what is none."""
    _, inside, _ = _element(certificate)
    _, fields, _ = _element(inside)
    tag, _, rest = _element(fields)
    if tag == _VERSION:
        _, _, rest = _element(rest)
    # What is left: signature algorithm, issuer, validity.
    _, _, rest = _element(rest)
    _, _, rest = _element(rest)
    tag, validity, _ = _element(rest)
    if tag != _SEQUENCE:
        raise ValueError("this is not a certificate")
    _, _, rest = _element(validity)
    tag, text, _ = _element(rest)
    form = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}.get(tag, "")
    return datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC).timestamp()


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Return tag and content of the first element, and what follows it."""
    length, at = data[1], 2
    if length & 0x80:
        at += length & 0x7F
        length = int.from_bytes(data[2:at], "big")
    if at + length > len(data):
        raise ValueError("the certificate is cut")
    return data[0], data[at : at + length], data[at + length :]


class CertificateCollector(Collector):
    """Reads the certificates at each scrape."""

    def __init__(self, files: Callable[[], Mapping[str, Path]]) -> None:
        """``files`` returns the PEM files, each by what it is for."""
        self._files = files

    def collect(self) -> Iterator[Metric]:
        """Yield the gauge; a file without a readable certificate has no sample."""
        family = GaugeMetricFamily(
            "kubeweir_certificate_expires_seconds",
            "Seconds until the first certificate in a file expires; negative once it has",
            labels=["certificate", "file"],
        )
        for name, path in self._files().items():
            end = first_end(path)
            if end is not None:
                family.add_metric([name, str(path)], end - time.time())
        yield family
