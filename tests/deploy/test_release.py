"""`make release` in a clone of this tree: what it refuses, and that two builds of a commit give the same files."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

from deploy.release.lock import pinned
from deploy.release.oci import settings_of
from deploy.release.tree import PLACES, ReleaseError, read_release, section, set_version
from tests.docs.pages import ROOT, page

pytestmark = pytest.mark.timeout(900)
VERSION = "9.8.7"
URL = "https://example.test/releases/v9.8.7"
DIST = Path("dist")


def run(*command: str | Path, cwd: Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def build(tree: Path, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "deploy.release", "build", "--without-image", *words)
    return run(*command, cwd=tree, check=check, PYTHONPATH=str(tree))


def commit(tree: Path, text: str) -> None:
    names = ("-c", "user.name=t", "-c", "user.email=t@example.test")
    run("git", *names, "commit", "-qam", text, cwd=tree)


def sums_of(dist: Path) -> dict[str, str]:
    """Return the digest of each file."""
    return {name: digest for digest, name in re.findall(r"(\S+)  (\S+)\n", (dist / "SHA256SUMS").read_text())}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of what is in this tree, committed or not, made ready for a version by `make version`."""
    clone = tmp_path_factory.mktemp("release") / "tree"
    run("git", "clone", "-q", "--no-hardlinks", ROOT, clone, cwd=ROOT)
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    shutil.copytree(ROOT / "streams/web/static/vendor", clone / "streams/web/static/vendor")
    changelog = clone / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().replace("## [Unreleased]\n", "## [Unreleased]\n\n- A line.\n", 1))
    run("git", "add", "-A", cwd=clone)
    commit(clone, "What is here")
    command = (sys.executable, "-m", "deploy.release", "bump", VERSION, "--date", "2027-01-02")
    run(*command, cwd=clone, PYTHONPATH=str(clone))
    commit(clone, f"Release {VERSION}")
    return clone


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "release.key"
    run("openssl", "genpkey", "-algorithm", "ed25519", "-out", path, cwd=ROOT)
    return path


@pytest.fixture(scope="module")
def dist(tree: Path, key: Path) -> Path:
    """The release, built with a key, and for a place where it will be."""
    build(tree, "--key", key, "--url", URL)
    return tree / DIST


def test_make_version_writes_it_everywhere_and_begins_a_new_section(tree: Path) -> None:
    for name, pattern in PLACES:
        assert re.findall(pattern, (tree / name).read_text()) == [VERSION], name
    text = (tree / "CHANGELOG.md").read_text()
    assert f"## [Unreleased]\n\n## [{VERSION}] - 2027-01-02\n\n- A line.\n" in text
    assert f'2027\\-01\\-02 "kubeweir {VERSION}"'.replace("\\", "") in (tree / "deploy/man/weir.1").read_text()
    for version, why in (("9.8", "is not a version"), (VERSION, "is not later than"), ("9.8.8", "nothing under")):
        with pytest.raises(ReleaseError, match=why):
            set_version(version, "2027-01-03", tree)


def test_a_tree_that_is_not_ready_is_refused_with_every_reason(tree: Path, tmp_path: Path) -> None:
    clone = tmp_path / "tree"
    run("git", "clone", "-q", "--no-hardlinks", tree, clone, cwd=tmp_path)
    assert read_release(clone).version == VERSION
    run("git", "tag", f"v{VERSION}", cwd=clone)
    assert read_release(clone).version == VERSION  # the tag is on this commit
    changelog = clone / "CHANGELOG.md"
    whole = changelog.read_text()
    changelog.write_text(whole.replace(f"## [{VERSION}] - 2027-01-02\n\n", ""))
    commit(clone, "Lose a heading")
    (clone / "README.md").write_text("changed\n")
    (clone / "new").touch()
    with pytest.raises(ReleaseError) as refused:
        read_release(clone)
    text = str(refused.value)
    assert "changes that are not committed" in text
    assert "?? new" in text
    assert "README.md has the version nowhere" in text
    # What git is told outside the tree to ignore would get into the archive of sources as well.
    (clone / ".git/info/exclude").write_text("new\n")
    run("git", "config", "status.showUntrackedFiles", "no", cwd=clone)
    with pytest.raises(ReleaseError, match=r"\?\? new"):
        read_release(clone)
    run("git", "checkout", "-q", "README.md", cwd=clone)
    (clone / "new").unlink()
    with pytest.raises(ReleaseError) as refused:
        read_release(clone)
    text = str(refused.value)
    assert f"no section '## [{VERSION}] - DATE'" in text
    assert "'Unreleased' is not empty" in text
    assert f"the tag v{VERSION} is at the commit" in text


def test_a_refused_release_leaves_the_folder_as_it_was(tree: Path, tmp_path: Path) -> None:
    (tree / "strange").touch()
    out = tmp_path / "dist"
    out.mkdir()
    (out / "mine").touch()
    (out / "kubeweir-sources").mkdir()
    (tmp_path / "link").symlink_to(out)
    done = build(tree, "--out", out, check=False)
    (tree / "strange").unlink()
    assert (done.returncode, "?? strange" in done.stderr) == (3, True)
    for words, why in (
        (("--out", out), "has what no release makes: kubeweir-sources, mine"),
        (("--out", tmp_path / "link"), "link is not a folder"),
        (("--key", tmp_path / "none"), "none: No such file"),
        (("--key", ROOT / "README.md"), "is not a private key in PEM"),
        (("--url", "http://example.test"), "must begin with https://"),
    ):
        done = build(tree, *words, check=False)
        assert (done.returncode, why in done.stderr) == (3, True), done.stderr
    assert {path.name for path in out.iterdir()} == {"kubeweir-sources", "mine"}


def test_two_builds_of_a_commit_are_equal_byte_for_byte(tree: Path, dist: Path, key: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere"
    run("git", "clone", "-q", "--no-hardlinks", tree, again, cwd=tmp_path)
    shutil.copytree(tree / "streams/web/static/vendor", again / "streams/web/static/vendor")
    for path in again.rglob("*.py"):
        os.utime(path, (1, 1))
    build(again, "--key", key, "--url", URL)
    assert {path.name: path.read_bytes() for path in (again / DIST).iterdir()} == {
        path.name: path.read_bytes() for path in dist.iterdir()
    }


def test_the_sources_have_what_a_wheel_is_built_from(dist: Path) -> None:
    with tarfile.open(dist / f"kubeweir-{VERSION}.tar.gz") as archive:
        names = {one.partition("/")[2] for one in archive.getnames()}
    assert {
        "pyproject.toml",
        "streams/web/static/vendor/uplot/uPlot.esm.js",
        "deploy/man/weir.1",
        "bpf/policy.c",
    } <= names
    assert not [one for one in names if one.startswith(("dist/", "build/", ".venv/"))]


def test_digests_and_signature_are_checked_by_the_commands_of_the_page(dist: Path) -> None:
    commands = re.findall(r"(?m)^    ((?:openssl pkeyutl -verify|sha256sum) .*)$", page("docs/releasing.md").text)
    assert len(commands) == 2
    for command in commands:
        run("bash", "-c", command, cwd=dist)
    changed = dist / "NOTES.txt"
    before = changed.read_bytes()
    changed.write_bytes(before + b"!")
    assert [run("bash", "-c", one, cwd=dist, check=False).returncode for one in commands] == [0, 1]
    changed.write_bytes(before)
    sums = dist / "SHA256SUMS"
    before = sums.read_bytes()
    sums.write_bytes(before.replace(b"a", b"b", 1))
    assert run("bash", "-c", commands[0], cwd=dist, check=False).returncode == 1
    sums.write_bytes(before)
    unsigned = {"SHA256SUMS", "SHA256SUMS.sig", "release.pub"}
    assert set(re.findall(r"  (\S+)\n", before.decode())) == {path.name for path in dist.iterdir()} - unsigned


def test_provenance_names_the_commit_and_every_file_and_its_envelope_is_signed(dist: Path, tree: Path) -> None:
    statement = json.loads((dist / f"kubeweir-{VERSION}.provenance.json").read_text())
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1",
    )  # fmt: skip
    head = run("git", "rev-parse", "HEAD", cwd=tree).stdout.strip()
    assert statement["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"] == {"gitCommit": head}
    named = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    sums = sums_of(dist)
    assert named == {name: digest for name, digest in sums.items() if "provenance" not in name and name != "NOTES.txt"}
    envelope = json.loads((dist / f"kubeweir-{VERSION}.provenance.dsse.json").read_text())
    payload = base64.b64decode(envelope["payload"])
    assert json.loads(payload) == statement
    kind = envelope["payloadType"].encode()
    (dist / "signed").write_bytes(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload))
    (dist / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    check = "openssl pkeyutl -verify -pubin -inkey release.pub -rawin -in signed -sigfile sig"
    run("bash", "-c", check, cwd=dist)
    for name in ("signed", "sig"):
        (dist / name).unlink()


def test_an_ecdsa_key_signs_too(tree: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key, cwd=tmp_path)
    done = build(tree, "--key", key, "--out", tmp_path / "dist")
    command = done.stderr.rpartition("to check it: ")[2].strip()
    assert command.startswith("openssl dgst -sha256 -verify")
    run("bash", "-c", command, cwd=tmp_path / "dist")


def test_the_list_of_parts_has_what_the_lock_pins_and_the_page_serves(dist: Path) -> None:
    """Building has checked it against the schema of CycloneDX 1.6."""
    found = json.loads((dist / f"kubeweir-{VERSION}-py3-none-any.whl.cdx.json").read_text())
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    parts = {one["purl"] for one in found["components"]}
    assert {f"pkg:pypi/{one.name}@{one.version}" for one in pinned(ROOT)} <= parts
    assert [one for one in parts if one.startswith("pkg:npm/uplot@")]
    assert not [one for one in parts if re.search(r"pkg:pypi/(pytest|mypy|ruff|hatchling)@", one)]
    root = next(one for one in found["dependencies"] if one["ref"] == "kubeweir")
    assert set(root["dependsOn"]) == {one["bom-ref"] for one in found["components"]}


def test_the_notes_are_the_section_of_the_changelog(dist: Path) -> None:
    text = (dist / "NOTES.txt").read_text()
    assert text.startswith(f"# kubeweir {VERSION}\n\n- A line.\n")
    assert "## [" not in text
    assert section("## [1.0.0] - 2026-01-01\n\nOne.\n\n## [0.9.0] - 2025-01-01\n", "1.0.0") == "One.\n"
    assert section("## [1.0.0] - 2026-01-01\n\n## [0.9.0] - 2025-01-01\n\nOld.\n", "1.0.0") == ""


def test_the_plugin_of_kubectl_is_what_krews_manifest_names(dist: Path, tmp_path: Path) -> None:
    manifest = yaml.safe_load((dist / "weir.yaml").read_text())
    sums = sums_of(dist)
    (platform,) = manifest["spec"]["platforms"]
    name = platform["uri"].removeprefix(f"{URL}/")
    assert (manifest["spec"]["version"], platform["sha256"]) == (f"v{VERSION}", sums[name])
    # What krew's own validation asks for (https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest).
    assert manifest["apiVersion"] == "krew.googlecontainertools.github.com/v1alpha2"
    assert manifest["metadata"]["name"] == "weir"
    assert len(manifest["spec"]["shortDescription"]) <= 50
    with tarfile.open(dist / name) as archive:
        archive.extractall(tmp_path)  # noqa: S202 - it is of our making
        assert {(one.uname, one.mtime > 0) for one in archive} == {("root", True)}
    files = {"LICENSE", "kubectl-weir", "requirements.txt", f"kubeweir-{VERSION}-py3-none-any.whl"}
    assert {path.name for path in tmp_path.iterdir()} == files
    assert os.access(tmp_path / platform["bin"], os.X_OK)
    assert not (dist.parent / "weir.yaml").exists()


def test_what_was_released_works_without_the_tree(dist: Path, tmp_path: Path) -> None:
    """The wheel in an environment of its own. What it requires is that of this environment, but for kubeweir itself."""
    home = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=tmp_path)
    (site,) = (home / "lib").glob("python3*/site-packages")
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for path in next((Path(sys.prefix) / "lib").glob("python3*/site-packages")).iterdir():
        if not path.name.startswith(("kubeweir", "_kubeweir", "_editable")) and path.suffix != ".pth":
            (libraries / path.name).symlink_to(path)
    (site / "libraries.pth").write_text(f"{libraries}\n")
    wheel = dist / f"kubeweir-{VERSION}-py3-none-any.whl"
    pip = (sys.executable, "-m", "pip", f"--python={home / 'bin/python'}", "install", "-q", "--no-deps", "--no-index")
    run(*pip, wheel, cwd=tmp_path)
    weir = str(home / "bin/weir")

    def says(*words: str | Path, check: bool = True) -> str:
        return run(*words, cwd=tmp_path, check=check, PATH=f"{home}/bin:/usr/bin:/bin", PYTHONPATH="").stdout

    assert says(weir, "version") == f"{VERSION}\n"
    assert says(home / "bin/kubectl-weir", "--version") == f"weir, version {VERSION}\n"
    assert says(home / "bin/kubectl-weir", "observe", "--help").startswith("Usage: kubectl weir observe [OPTIONS]\n")
    assert says(home / "bin/weir-streams", "--version") == f"weir-streams, version {VERSION}\n"
    assert "_weir_completion" in says(weir, "completion", "bash")
    folder = ROOT / "deploy/examples/demo"
    assert json.loads(says(weir, "check", "-o", "json", folder, check=False))
    pods = ("batch/report-29401200-7wq5h", "data/db-0:postgres")
    assert says(weir, "explain", "--source", f"manifests:{folder}", *pods, check=False).startswith("DENIED  ")
    assert (home / "share/man/man1/weir.1").is_file()
    assert str(ROOT) not in says(home / "bin/python", "-c", "import streams, enrich; print(streams, enrich)")


def test_the_image_takes_user_environment_and_labels_from_the_dockerfile() -> None:
    found = settings_of((ROOT / "deploy/image/Dockerfile").read_text(), VERSION)
    assert (found["User"], found["Cmd"]) == ("65532:65532", ["weir-streams"])
    assert found["Env"][0].startswith("PATH=/opt/kubeweir/bin:")
    assert found["Labels"]["org.opencontainers.image.version"] == VERSION


def test_the_image_has_the_packages_that_the_dockerfile_installs() -> None:
    from deploy.release.debian import PACKAGES
    from deploy.release.image import EXTRAS

    last = (ROOT / "deploy/image/Dockerfile").read_text().rpartition("FROM ${BASE}")[2]
    installed = re.findall(r"apt-get install -y --no-install-recommends ([^\\]+) \\", last)[0].split()
    assert set(installed) <= set(PACKAGES)
    listed = (ROOT / "deploy/image/requirements.py").read_text()
    assert f"EXTRAS = {EXTRAS!r}".replace("'", '"') in listed
    assert set(EXTRAS) <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
