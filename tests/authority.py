"""Makes authorities, and certificates that they sign, with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def make_authority(file: Path) -> None:
    """Replace ``file`` by an authority's certificate, at once. Its key is beside it, with the suffix ``.key``."""
    made = file.with_suffix(".new")
    _openssl("req", "-x509", *_KEY, "-subj", "/CN=authority", "-days", "3", "-out", made,
             "-keyout", file.with_suffix(".key"))  # fmt: skip
    made.replace(file)


class Authority:
    """An authority in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.file = folder, folder / "ca.crt"
        folder.mkdir(parents=True, exist_ok=True)
        make_authority(self.file)

    def sign(self, subject: str, purpose: str = "clientAuth", valid: tuple[str, str] = ("", "")) -> tuple[Path, Path]:
        """Return a new certificate and its key. ``subject`` is as openssl writes it, such as ``/CN=proxy``; ``valid``
        is from when to when, as YYYYMMDDHHMMSSZ."""
        stem = self._folder / f"{len(list(self._folder.iterdir()))}"
        request, certificate, key, config = (stem.with_suffix(f".{one}") for one in ("csr", "crt", "key", "cnf"))
        _openssl("req", "-new", *_KEY, "-subj", subject, "-out", request, "-keyout", key)
        config.write_text(
            f"[ca]\ndefault_ca=own\n[own]\ndatabase={stem}.db\nrand_serial=yes\ndefault_md=sha256\npolicy=any\n"
            "unique_subject=no\nemail_in_dn=no\n[any]\ncommonName=optional\norganizationName=optional\n"
            f"[more]\nextendedKeyUsage={purpose}\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n"
        )
        Path(f"{stem}.db").touch()
        times = ("-startdate", valid[0], "-enddate", valid[1]) if valid[0] else ("-days", "2")
        _openssl("ca", "-batch", "-notext", "-preserveDN", "-config", config, "-extensions", "more", "-in", request,
                 "-out", certificate, "-cert", self.file, "-keyfile", self._folder / "ca.key", "-outdir", self._folder,
                 *times)  # fmt: skip
        return certificate, key


def _openssl(*words: Any) -> None:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
