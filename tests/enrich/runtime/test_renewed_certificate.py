"""A server that keeps one TLS context shows, in each handshake, the certificate that is on disk then."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest

from enrich.runtime.renewed_certificate import RenewedCertificate
from tests.authority import make_authority


def _shown(context: ssl.SSLContext, *, named: bool) -> str:
    """Return the certificate that a server with this context shows to a client that names the server, or does not."""
    ours, theirs = socket.socketpair()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE

    def serve() -> None:
        with context.wrap_socket(ours, server_side=True) as served:
            served.recv(1)

    server = threading.Thread(target=serve)
    server.start()
    with client.wrap_socket(theirs, server_hostname="weir.example" if named else None) as made:
        found = ssl.DER_cert_to_PEM_cert(made.getpeercert(binary_form=True) or b"").strip()
        made.sendall(b"x")
    server.join()
    return found


@pytest.mark.parametrize("named", [True, False])
def test_a_server_shows_the_renewed_certificate_and_the_earlier_one_while_files_do_not_fit(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enrich.runtime.renewed_certificate._LOOK_S", 0.0)
    file = tmp_path / "tls.crt"
    make_authority(file)
    context = RenewedCertificate("the page", file, file.with_suffix(".key")).lasting_context()
    first = _shown(context, named=named)
    assert first == file.read_text().strip()
    make_authority(tmp_path / "other.crt")
    (tmp_path / "other.crt").replace(file)
    assert _shown(context, named=named) == first, "the key is not this certificate's yet"
    (tmp_path / "other.key").replace(file.with_suffix(".key"))
    assert _shown(context, named=named) == file.read_text().strip() != first
    file.unlink()
    assert _shown(context, named=named) != first


def test_a_server_does_not_start_without_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        RenewedCertificate("the page", tmp_path / "no.crt", tmp_path / "no.key").lasting_context()
