"""The program `kubectl-weir` of a release, with a wheel that needs nothing: pip asks no server here."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

pytestmark = pytest.mark.timeout(300)
PYTHON = f"9.8.7-python{sys.version_info[0]}.{sys.version_info[1]}"
PLACE = f"kubeweir/{PYTHON}"
FILES = {
    "weir_for_tests.py": "import sys\n\n\ndef main():\n    print(*sys.argv[1:])\n",
    "kubeweir-9.8.7.dist-info/METADATA": "Metadata-Version: 2.1\nName: kubeweir\nVersion: 9.8.7\n",
    "kubeweir-9.8.7.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "kubeweir-9.8.7.dist-info/entry_points.txt": "[console_scripts]\nkubectl-weir = weir_for_tests:main\n",
}


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """The program where krew puts it, with a link to it elsewhere, which is returned."""
    folder = tmp_path / "plugin"
    folder.mkdir()
    program = folder / "kubectl-weir"
    program.write_text((ROOT / "deploy/release/kubectl-weir").read_text().replace("@VERSION@", "9.8.7"))
    program.chmod(0o755)
    (folder / "requirements.txt").touch()
    with zipfile.ZipFile(folder / "kubeweir-9.8.7-py3-none-any.whl", "w") as wheel:
        for name, text in {**FILES, "kubeweir-9.8.7.dist-info/RECORD": ""}.items():
            wheel.writestr(name, text)
    link = tmp_path / "bin"
    link.mkdir()
    (link / "kubectl-weir").symlink_to(program)
    return link / "kubectl-weir"


def run(plugin: Path, *words: str, cache: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": cache, "HOME": str(plugin.parent), "PIP_NO_INDEX": "1"}
    return subprocess.run(
        [sys.executable, plugin, *words], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )


def test_the_first_run_makes_the_environment_and_the_next_one_uses_it(plugin: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "repository"
    (hostile / "pip").mkdir(parents=True)
    (hostile / "pip/__main__.py").write_text("raise SystemExit('code of the working directory has run')\n")
    cache = tmp_path / "cache"
    done = run(plugin, "observe", "-f", cache=str(cache), cwd=hostile)
    assert (done.returncode, done.stdout) == (0, "observe -f\n"), done.stderr
    assert f"makes its environment in {cache / PLACE}" in done.stderr
    assert (cache / "kubeweir").stat().st_mode & 0o777 == 0o700
    done = run(plugin, "status", cache=str(cache), cwd=hostile)
    assert (done.returncode, done.stdout, done.stderr) == (0, "status\n", "")

    (cache / PLACE / "bin/kubectl-weir").unlink()
    done = run(plugin, "status", cache=str(cache), cwd=hostile)
    assert done.returncode == 1
    assert f"No such file or directory: remove {cache / PLACE}" in done.stderr


def test_what_pip_refuses_is_not_used_and_the_next_run_tries_again(plugin: Path, tmp_path: Path) -> None:
    requirements = plugin.resolve().parent / "requirements.txt"
    wheel = requirements.with_name("kubeweir-9.8.7-py3-none-any.whl")
    requirements.write_text(f"kubeweir @ {wheel.as_uri()} --hash=sha256:{'0' * 64}\n")
    done = run(plugin, "status", cache=str(tmp_path / "cache"), cwd=tmp_path)
    assert done.returncode == 1
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert done.stderr.endswith("pip failed, see above: the next run tries again\n")
    requirements.write_text("")
    done = run(plugin, "status", cache=str(tmp_path / "cache"), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "status\n"), done.stderr


def prepare(folder: Path) -> Path:
    """Put a program there that somebody else would have this user run."""
    home = folder / PLACE
    (home / "bin").mkdir(parents=True)
    (home / "complete").touch()
    program = home / "bin/kubectl-weir"
    program.write_text("#!/bin/sh\necho planted\n")
    program.chmod(0o755)
    return folder / "kubeweir"


def test_a_folder_that_others_may_write_to_is_refused(plugin: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "cache")
    assert run(plugin, cache=str(tmp_path / "cache"), cwd=tmp_path).stdout == "planted\n"
    folder.chmod(0o777)
    done = run(plugin, cache=str(tmp_path / "cache"), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{folder} belongs to another user, or everybody may write to it" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_is_refused(plugin: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "cache")
    os.chown(folder, 65534, 65534)
    done = run(plugin, cache=str(tmp_path / "cache"), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "belongs to another user" in done.stderr


def test_a_relative_cache_is_not_looked_for_in_the_working_directory(plugin: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "cache")
    (plugin.parent / ".cache").touch()
    done = run(plugin, cache="cache", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"kubectl weir: {plugin.parent / '.cache'}" in done.stderr
