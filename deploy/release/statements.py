"""What is said of the files of a release: their digests, where they come from, and a signature of both.

Provenance is an in-toto statement (https://in-toto.io/Statement/v1) with SLSA's predicate
(https://slsa.dev/spec/v1.0/provenance). Who builds by hand can say so, but not prove it: that is SLSA's build level 1.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from deploy.release.archives import digest
from deploy.release.tree import Release, ReleaseError

SUMS: Final = "SHA256SUMS"
_PAYLOAD: Final = "application/vnd.in-toto+json"
Key = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey


def load_key(path: Path) -> Key:
    """Return the private key of a PEM file. Raises ReleaseError if it cannot sign here."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ReleaseError(f"KEY={path}: {error.strerror}") from None
    except TypeError:
        raise ReleaseError(f"KEY={path}: has a passphrase: give a key without one, as openssl pkey writes it") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ReleaseError(f"KEY={path}: is not a private key in PEM: {error}") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        raise ReleaseError(f"KEY={path}: must be a key of Ed25519 or of an elliptic curve (ECDSA)")
    return key


def write_provenance(
    release: Release,
    out: Path,
    subjects: Mapping[str, str],
    materials: Sequence[Mapping[str, Any]],
    tools: Mapping[str, str],
) -> Path:
    """Write the statement about ``subjects``, names with their SHA-256: which ``materials`` and ``tools`` made them."""
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": subjects[name]}} for name in sorted(subjects)],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:kubeweir:make-release:v1",
                "externalParameters": {"version": release.version, "commit": release.commit},
                "internalParameters": {"SOURCE_DATE_EPOCH": release.time, "tools": dict(tools)},
                "resolvedDependencies": [
                    {"name": "kubeweir", "digest": {"gitCommit": release.commit}},
                    *materials,
                ],
            },
            "runDetails": {"builder": {"id": "urn:kubeweir:builder:by-hand"}},
        },
    }
    path = out / f"kubeweir-{release.version}.provenance.json"
    path.write_text(json.dumps(statement, indent=1) + "\n")
    return path


def write_sums(out: Path) -> Path:
    """Write the digests of all files in ``out`` as `sha256sum --check` takes them."""
    files = sorted(path for path in out.iterdir() if path.is_file() and path.name != SUMS)
    path = out / SUMS
    path.write_text("".join(f"{digest(file)}  {file.name}\n" for file in files))
    return path


def sign(key: Key, data: bytes) -> bytes:
    """Return the signature: Ed25519's own, or ECDSA's in DER over SHA-256, as openssl has them."""
    return key.sign(data) if isinstance(key, ed25519.Ed25519PrivateKey) else key.sign(data, ec.ECDSA(SHA256()))


def write_signed_provenance(key: Key, provenance: Path) -> Path:
    """Write the statement with its signature in one file, an envelope of DSSE."""
    payload = provenance.read_bytes()
    signed = b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)
    envelope = {
        "payloadType": _PAYLOAD,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"sig": base64.b64encode(sign(key, signed)).decode()}],
    }
    path = provenance.with_suffix(".dsse.json")
    path.write_text(json.dumps(envelope) + "\n")
    return path


def write_signature(key: Key, sums: Path) -> list[Path]:
    """Write the signature of the digests, and the public key that checks it."""
    signature, public = sums.with_name(f"{sums.name}.sig"), sums.with_name("release.pub")
    signature.write_bytes(sign(key, sums.read_bytes()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return [signature, public]


def checking(key: Key) -> str:
    """Return the command by which openssl checks the signature."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return f"openssl pkeyutl -verify -pubin -inkey release.pub -rawin -in {SUMS} -sigfile {SUMS}.sig"
    return f"openssl dgst -sha256 -verify release.pub -signature {SUMS}.sig {SUMS}"
