"""What is in the wheel and in the images, as CycloneDX (https://cyclonedx.org) has it."""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from deploy.release.debian import Debian
from deploy.release.tree import Release, ReleaseError

_LICENCE: Final = "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)"
_NAMES: Final = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 9562's, for URLs


def python_component(name: str, version: str, sha256: str = "") -> Component:
    """Return a package of PyPI, with the hash of its file if it is known which one was taken."""
    purl = PackageURL("pypi", None, name, version)
    return _library(purl, [HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else [])


def debian_component(one: Debian) -> Component:
    """Return a package of Debian."""
    purl = PackageURL("deb", "debian", one.name, one.version, {"arch": one.arch, "distro": "debian-12"})
    return _library(purl, [HashType(alg=HashAlgorithm.SHA_256, content=one.sha256)])


def page_components(root: Path) -> list[Component]:
    """Return the libraries that the page serves, from the list in deploy/web/libraries."""
    text = (root / "deploy/web/libraries").read_text().partition("page=(")[2].partition("\n)")[0]
    found = re.findall(r'"(\S+) (\S+) sha512-(\S+) ', text)
    return [
        _library(
            PackageURL("npm", None, name, version),
            [HashType(alg=HashAlgorithm.SHA_512, content=base64.b64decode(integrity).hex())],
        )
        for name, version, integrity in found
    ]


def _library(purl: PackageURL, hashes: Iterable[HashType]) -> Component:
    return Component(name=purl.name, version=purl.version, purl=purl, bom_ref=purl.to_string(), hashes=hashes)


def write_sbom(release: Release, subject: Path, sha256: str, kind: ComponentType, parts: Iterable[Component]) -> Path:
    """Write what ``subject`` has inside, beside it. Raises ReleaseError if the schema of CycloneDX refuses that."""
    main = Component(
        name="kubeweir", version=release.version, type=kind, bom_ref="kubeweir",
        description=subject.name, licenses=[LicenseExpression(_LICENCE)],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
    )  # fmt: skip
    # The number names this list for life; it must not differ between two builds of the same.
    bom = Bom(components=parts, serial_number=uuid.uuid5(_NAMES, f"kubeweir {subject.name} {sha256}"))
    bom.metadata.component = main
    bom.metadata.timestamp = datetime.fromtimestamp(release.time, UTC)
    bom.register_dependency(main, bom.components)
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if wrong is not None:
        raise ReleaseError(f"the parts list of {subject.name} is not valid CycloneDX: {wrong}")
    path = subject.with_name(f"{subject.name}.cdx.json")
    path.write_text(text + "\n")
    return path
