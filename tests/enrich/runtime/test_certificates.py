"""The end of certificates on disk is a metric, also of one that is an authority or one of several in a file."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from enrich.runtime.certificates import CertificateCollector, first_end


def _certificate(folder: Path, days: int) -> Path:
    path = folder / f"{days}.crt"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", str(days),
               "-keyout", str(folder / "key"), "-out", str(path)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return path


# The form of the date changes in 2050.
@pytest.mark.parametrize("days", [3, 12000])
def test_the_end_is_what_openssl_has_written(tmp_path: Path, days: int) -> None:
    end = first_end(_certificate(tmp_path, days))
    assert end is not None
    assert end - time.time() == pytest.approx(days * 86400, abs=600)


def test_the_first_end_of_several_counts(tmp_path: Path) -> None:
    both = tmp_path / "both"
    both.write_bytes(b"text" + _certificate(tmp_path, 20).read_bytes() + _certificate(tmp_path, 3).read_bytes())
    end = first_end(both)
    assert end is not None
    assert end - time.time() == pytest.approx(3 * 86400, abs=600)


def test_what_is_no_certificate_has_no_sample(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
    assert first_end(bad) is None
    assert first_end(tmp_path / "missing") is None
    good = _certificate(tmp_path, 3)
    registry = CollectorRegistry()
    registry.register(CertificateCollector(lambda: {"kafka_ca": bad, "kafka_client": good}))
    text = generate_latest(registry).decode()
    assert f'kubeweir_certificate_expires_seconds{{certificate="kafka_client",file="{good}"}} ' in text
    assert 'certificate="kafka_ca"' not in text
