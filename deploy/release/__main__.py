"""`make release`: builds everything that a version consists of into dist/, and publishes nothing.

`make version` writes the next version everywhere that it stands.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version as version_of_package
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click
from cyclonedx.model.component import ComponentType

from deploy.release import image, packages, sbom, statements
from deploy.release.archives import digest
from deploy.release.lock import pinned
from deploy.release.rootfs import MACHINES
from deploy.release.tree import ROOT, Release, ReleaseError, read_release, run, set_version

_REFUSED: Final = 3


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Make a version of kubeweir from this tree."""


@command.command()
@click.argument("version")
@click.option("--date", help="Date in the changelog; today's, if it is not given.")
def bump(version: str, date: str | None) -> None:
    """Write VERSION everywhere that it stands, and give it what the changelog has under Unreleased."""
    set_version(version, date or datetime.now(UTC).strftime("%Y-%m-%d"))
    run([sys.executable, "-m", "tests.docs.generate"], cwd=ROOT)
    click.echo(f"release: this tree is {version}: look at `git diff`, then commit it as 'Release {version}'")


@command.command()
@click.option("--key", type=click.Path(path_type=Path), help="Private key in PEM, Ed25519 or ECDSA, that signs.")
@click.option("--url", default="", help="Where the files will be, for krew's manifest: https://...")
@click.option("--arch", "arches", default="amd64,arm64", show_default=True, help="Architectures of the image.")
@click.option("--without-image", is_flag=True, help="Leave the image out.")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "dist", help="Folder that is made anew: dist.")
def build(key: Path | None, url: str, arches: str, without_image: bool, out: Path) -> None:
    """Build wheel, source archive, images, plugin of kubectl, lists of parts, provenance, digests and signature."""
    os.umask(0o022)
    release = read_release()
    signer = None if key is None else statements.load_key(key)
    chosen = [] if without_image else arches.split(",")
    for one in chosen:
        if one not in MACHINES:
            raise ReleaseError(f"ARCH={arches}: {one!r} must be one of {', '.join(MACHINES)}")
    if url and (urlsplit(url).scheme != "https" or not urlsplit(url).netloc):
        raise ReleaseError(f"URL={url}: must begin with https://, because krew takes nothing else")
    missing = [f"{arch}: {tool}" for arch in chosen for tool in MACHINES[arch].missing_tools()]
    if missing:
        raise ReleaseError(f"programs that the image needs are not installed ({', '.join(missing)})")
    _check_replaceable(out)
    # A release is there as a whole or not at all.
    work = ROOT / "build/release"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    run([ROOT / "deploy/web/libraries"])
    _say(f"building {release.version} from the commit {release.commit[:12]}")
    materials, images = _build_files(release, url, chosen, work)
    subjects = images | {path.name: digest(path) for path in work.iterdir()}
    _say("writing provenance and digests")
    tools = {name: version_of_package(name) for name in ("hatchling", "cyclonedx-python-lib")}
    tools["python"] = sys.version.split()[0]
    provenance = statements.write_provenance(release, work, subjects, materials, tools)
    (work / "NOTES.txt").write_text(f"# kubeweir {release.version}\n\n{release.notes}")
    if signer is not None:
        statements.write_signed_provenance(signer, provenance)
    sums = statements.write_sums(work)
    if signer is not None:
        statements.write_signature(signer, sums)
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(work, out)
    for path in sorted(out.iterdir()):
        click.echo(f"{digest(path)}  {path.stat().st_size:>11,}  {path.name}")
    _say(f"{out} has the release. Nothing is published: docs/releasing.md says what is next")
    _say("signed; to check it: " + statements.checking(signer) if signer else "not signed: KEY=FILE signs")


def _build_files(
    release: Release, url: str, arches: Sequence[str], out: Path
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Build what is not said of other files.

    Returns what it was made of, as provenance has it, and the SHA-256 of each image, whose file is inside another.
    """
    wheel = packages.build_wheel(release, out)
    requirements = packages.write_requirements(release, out)
    plugin = packages.write_plugin(release, wheel, requirements, out)
    if url:
        packages.write_krew_manifest(release, plugin, url, out)
    page = sbom.page_components(ROOT)
    python = [sbom.python_component(one.name, one.version) for one in pinned(ROOT)]
    sbom.write_sbom(release, wheel, digest(wheel), ComponentType.APPLICATION, [*python, *page])
    if not arches:
        return [], {}
    cache = Path(os.environ.get("KUBEWEIR_CACHE") or "/var/cache/kubeweir") / "release"
    _, index, images = image.build(release, wheel, arches, cache, out, _say)
    digests = {"all": index, **{one.arch: one.digest for one in images}}
    lines = [f"{name:<6} {one}\n" for name, one in digests.items()]
    (out / f"kubeweir-{release.version}-image.digests").write_text("".join(lines))
    materials: dict[str, dict[str, Any]] = {}
    for one in images:
        parts = [sbom.python_component(pin.name, pin.version, file) for pin, file in one.python]
        parts += [sbom.debian_component(package) for package in one.debian]
        name = out / f"kubeweir-{release.version}-linux-{one.arch}"
        sbom.write_sbom(release, name, one.digest.removeprefix("sha256:"), ComponentType.CONTAINER, [*parts, *page])
        for part in parts:
            known = [each.content for each in part.hashes]
            materials[f"{part.bom_ref.value} {known}"] = {"uri": part.bom_ref.value} | (
                {"digest": {"sha256": known[0]}} if known else {}
            )
    named = {f"image for {name}": one.removeprefix("sha256:") for name, one in digests.items()}
    return [materials[name] for name in sorted(materials)], named


def _check_replaceable(out: Path) -> None:
    """Raise ReleaseError if the folder has other things than a release, which would be lost."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ReleaseError(f"{out} is not a folder")
    strange = [path.name for path in out.iterdir() if not _is_ours(path)] if out.exists() else []
    if strange:
        raise ReleaseError(f"{out} has what no release makes: {', '.join(sorted(strange)[:5])}: move it away")


def _is_ours(path: Path) -> bool:
    ours: Iterable[str] = ("kubeweir-", "kubectl-weir-", "NOTES.txt", statements.SUMS, "release.pub", "weir.yaml")
    return path.is_file() and path.name.startswith(tuple(ours))


def _say(text: str) -> None:
    click.echo(f"release: {text}", err=True)


def main() -> None:
    """Run the command; what speaks against a release is one line each, and an exit code."""
    try:
        command(prog_name="python -m deploy.release")
    except ReleaseError as error:
        for line in str(error).splitlines():
            _say(line)
        sys.exit(_REFUSED)


if __name__ == "__main__":
    main()
