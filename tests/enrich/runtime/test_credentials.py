"""Renewed credentials are taken once, when they are whole; anything else on disk leaves the earlier ones in use."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from enrich.runtime import credentials
from enrich.runtime.connection import KafkaSettings
from enrich.runtime.credentials import CredentialWatch, credential_problem, registry_with_credentials
from enrich.runtime.settings import SettingsError, load
from tests.waiting import until

_NUMBER = itertools.count()


def _make_pair(folder: Path, passphrase: str = "") -> None:
    """Write tls.crt, tls.key and ca.crt, which is the certificate itself, and a password."""
    folder.mkdir(exist_ok=True)
    protection = ["-passout", f"pass:{passphrase}"] if passphrase else ["-nodes"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", *protection,
               "-subj", "/CN=x", "-days", "3",
               "-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    (folder / "ca.crt").write_bytes((folder / "tls.crt").read_bytes())
    (folder / "password").write_text(f"secret-{next(_NUMBER)}")


class Mounted:
    """A folder as the kubelet mounts a secret: files are links into ..data, itself a link that is replaced at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.swap(self.version())
        for name in ("tls.crt", "tls.key", "ca.crt", "password"):
            (folder / name).symlink_to(f"..data/{name}")
        self.settings = load(KafkaSettings, {
            "WEIR_KAFKA_PROTOCOL": "sasl_ssl", "WEIR_KAFKA_USERNAME": "weir",
            "WEIR_KAFKA_PASSWORD_FILE": str(folder / "password"), "WEIR_KAFKA_CA": str(folder / "ca.crt"),
            "WEIR_KAFKA_CERTIFICATE": str(folder / "tls.crt"), "WEIR_KAFKA_KEY": str(folder / "tls.key"),
        })  # fmt: skip
        self.renewals = 0
        self.watch = CredentialWatch(self.settings, self.count)

    def count(self) -> None:
        self.renewals += 1

    def version(self) -> Path:
        made = self.folder / f"..{next(_NUMBER)}"
        _make_pair(made)
        return made

    def swap(self, version: Path) -> None:
        link = self.folder / "..new"
        link.symlink_to(version.name)
        link.replace(self.folder / "..data")

    @property
    def current(self) -> Path:
        return (self.folder / "..data").resolve()

    def looks(self, number: int = 3) -> list[str]:
        """Look some times; return what was logged as a warning."""
        with capture_logs() as logs:
            for _ in range(number):
                self.watch.look()
        return [line["problem"] for line in logs if line["log_level"] == "warning"]

    def metric(self) -> float:
        text = generate_latest(registry_with_credentials(self.settings)).decode()
        return float(text.split("\nkubeweir_kafka_credentials_unusable ")[1].split()[0])


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    return Mounted(tmp_path)


def test_a_replaced_link_is_one_renewal_after_a_second_look(mounted: Mounted) -> None:
    assert mounted.looks() == []
    mounted.swap(mounted.version())
    mounted.watch.look()
    assert mounted.renewals == 0
    assert mounted.looks() == []
    assert mounted.renewals == 1
    (mounted.current / "password").write_text("another")
    assert mounted.looks() == []
    assert mounted.renewals == 2
    assert mounted.metric() == 0


def test_the_same_contents_are_no_renewal(mounted: Mounted) -> None:
    for name in ("tls.crt", "tls.key", "ca.crt", "password"):
        os.utime(mounted.current / name, (1, 1))
        (mounted.current / name).write_bytes((mounted.current / name).read_bytes())
    assert mounted.looks() == []
    assert mounted.renewals == 0


def test_contents_that_still_change_are_waited_for(mounted: Mounted) -> None:
    for number in range(5):
        (mounted.current / "password").write_text(f"part {number}")
        assert mounted.looks(1) == []
    assert mounted.renewals == 0
    assert mounted.looks(1) == []
    assert mounted.renewals == 1


def _other_certificate(mounted: Mounted) -> None:
    (mounted.current / "tls.crt").write_bytes((mounted.version() / "tls.crt").read_bytes())


def _cut(name: str) -> Callable[[Mounted], None]:
    def cut(mounted: Mounted) -> None:
        path = mounted.current / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return cut


def _emptied(name: str) -> Callable[[Mounted], None]:
    def empty(mounted: Mounted) -> None:
        (mounted.current / name).write_text("")

    return empty


def _removed(name: str) -> Callable[[Mounted], None]:
    return lambda mounted: (mounted.current / name).unlink()


def _unreadable(mounted: Mounted) -> None:
    # A folder cannot be read as a file by root either.
    (mounted.current / "password").unlink()
    (mounted.current / "password").mkdir()


def _protected(mounted: Mounted) -> None:
    _make_pair(mounted.current, "of the key")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_other_certificate, "WEIR_KAFKA_CERTIFICATE"),
        (_cut("tls.crt"), "WEIR_KAFKA_CERTIFICATE"),
        (_cut("tls.key"), "WEIR_KAFKA_KEY"),
        (_cut("ca.crt"), "WEIR_KAFKA_CA"),
        (_emptied("ca.crt"), "WEIR_KAFKA_CA"),
        (_emptied("password"), "WEIR_KAFKA_PASSWORD_FILE"),
        (_removed("tls.key"), "WEIR_KAFKA_KEY"),
        (_removed("password"), "WEIR_KAFKA_PASSWORD_FILE"),
        (_unreadable, "WEIR_KAFKA_PASSWORD_FILE"),
        (_protected, "WEIR_KAFKA_KEY"),
    ],
)
def test_what_is_not_whole_is_reported_once_and_not_taken(
    mounted: Mounted, change: Callable[[Mounted], None], named: str
) -> None:
    change(mounted)
    (problem,) = mounted.looks(5)
    assert named in problem
    assert mounted.metric() == 1
    assert mounted.renewals == 0
    mounted.swap(mounted.version())
    assert mounted.looks() == []
    assert mounted.renewals == 1
    assert mounted.metric() == 0


def test_a_certificate_that_has_expired_is_not_taken(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "first_end", lambda _path: 1.0)
    mounted.swap(mounted.version())
    (problem,) = mounted.looks()
    assert "has expired" in problem
    assert mounted.renewals == 0


def test_no_text_holds_a_secret(mounted: Mounted) -> None:
    _other_certificate(mounted)
    with capture_logs() as logs:
        for _ in range(3):
            mounted.watch.look()
    assert "secret-" not in str(logs)


def test_a_key_with_a_password_is_read_with_it(tmp_path: Path) -> None:
    _make_pair(tmp_path, "of the key")
    env = {
        "WEIR_KAFKA_PROTOCOL": "ssl", "WEIR_KAFKA_CERTIFICATE": str(tmp_path / "tls.crt"),
        "WEIR_KAFKA_KEY": str(tmp_path / "tls.key"),
    }  # fmt: skip
    assert "WEIR_KAFKA_KEY" in (credential_problem(load(KafkaSettings, env)) or "")
    env["WEIR_KAFKA_EXTRA"] = "ssl.key.password=of the key"
    assert credential_problem(load(KafkaSettings, env)) is None


def test_a_renewal_that_fails_is_tried_again_with_the_next_contents(mounted: Mounted) -> None:
    def fail() -> None:
        raise SettingsError("gone again")

    mounted.watch = CredentialWatch(mounted.settings, fail)
    mounted.swap(mounted.version())
    assert mounted.looks() == ["gone again"]


def test_files_that_the_protocol_does_not_use_are_not_read(mounted: Mounted) -> None:
    assert load(KafkaSettings, {"WEIR_KAFKA_CA": "/none"}).credential_files() == ()
    assert len(mounted.settings.credential_files()) == 4


def test_a_thread_looks(mounted: Mounted) -> None:
    with mounted.watch.running():
        mounted.swap(mounted.version())
        until(lambda: mounted.renewals == 1)
