"""Puts the CNI plugin into the node: the program into the runtime's folder, its entry into the first configuration.

Theory of operation. Container runtimes use the first file of their configuration folder, by name, that ends in
``.conf``, ``.conflist`` or ``.json``. The program is copied first, the configuration that names it comes last, and a
removal goes the other way round: a configuration that names a missing program would keep every pod from starting. Each
file is written beside its place and renamed, so that a runtime reads the old or the new one.

Example, for a node whose network daemon has written 10-kindnet.conflist:

1. weir-cni is copied to /opt/cni/bin.
2. 10-kindnet.conflist gets our entry as the last one of its plugins.
3. The daemon restarts and writes its own text again. The probe, which watches the folder, adds the entry again.

A first file of a single plugin, 10-net.conf, is not touched: 10-net-kubeweir.conflist is written, with that plugin and
ours. It comes first, because "-" is before "." in the order of names. A removal deletes it.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from enrich.runtime.folder import FolderWatch
from probe.cni.conflist import TYPE, ConfigurationError, with_plugin, without_plugin
from probe.cni.datapaths import configurations, datapath_of

log = structlog.get_logger("kubeweir.cni")

_LIST: Final = ".conflist"
"""Of the files that runtimes read, only a conflist is a list of plugins."""
_OWN: Final = "-kubeweir.conflist"
"""The ending of a conflist that stands in for a file of a single plugin."""
_NEW: Final = ".kubeweir-new"
_RECHECK_S: Final = 30.0


class InstallationError(Exception):
    """The plugin cannot be put into the node or taken out of it. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the plugin's parts are."""

    program: Path
    """The compiled program that the probe's image contains."""
    bin_dir: Path
    conf_dir: Path


class Installation:
    """The plugin's parts on this node."""

    def __init__(self, places: Places, entry: dict[str, Any]) -> None:
        """``entry`` has the plugin's settings; ``type`` is added."""
        self._places, self._entry = places, {"type": TYPE, **entry}
        self._lock = threading.Lock()
        self._watch: FolderWatch | None = None
        self._rechecks: threading.Thread | None = None
        self._stop = threading.Event()
        self.problem: str | None = "the CNI plugin has not been installed yet"
        """Why the plugin is not in force on this node, None if it is."""

    def install(self) -> None:
        """Put in what is missing. Raises InstallationError; then the configuration does not name the plugin."""
        try:
            _copy(self._places.program, self._places.bin_dir / TYPE)
        except OSError as error:
            if not os.access(self._places.bin_dir / TYPE, os.X_OK):
                with contextlib.suppress(OSError):
                    self._take_out()
            raise InstallationError(
                f"the program cannot be copied to {self._places.bin_dir}: {error}. Is the folder mounted from the node "
                "and writable? (WEIR_CNI_BIN_DIR)"
            ) from error
        files = list(configurations(self._places.conf_dir))
        first = next((file for file in files if not file.name.endswith(_OWN)), None)
        try:
            if first is not None and self._add_to(first):
                log.info("the CNI plugin is in the node's configuration", file=str(first), program=TYPE)
            for file in files:
                if file.name.endswith(_OWN) and (first is None or file != _beside(first)):
                    file.unlink(missing_ok=True)
        except (OSError, ConfigurationError) as error:
            raise InstallationError(f"the plugin cannot be added to {first}: {error}; pods start without it") from error
        if first is None:
            raise InstallationError(
                f"{self._places.conf_dir} has no configuration yet: waiting for the cluster's network plugin to write "
                "one. Is this the runtime's folder? (WEIR_CNI_CONF_DIR)"
            )

    def remove(self) -> bool:
        """Take the plugin out of every configuration, then remove the program; return whether it was in one.

        Raises InstallationError, and leaves the program where it is if a configuration may still name it.
        """
        with self._lock:
            self._stop.set()
            try:
                found = self._take_out()
                (self._places.bin_dir / TYPE).unlink(missing_ok=True)
            except OSError as error:
                raise InstallationError(
                    f"the CNI plugin cannot be removed: {error}; take {TYPE} out of the files in "
                    f"{self._places.conf_dir}, or no pod can start on this node"
                ) from error
        return found

    def keep(self) -> None:
        """Install, and do it again whenever somebody has changed the folder, until :meth:`stop`."""
        self._check()
        self._watch = FolderWatch("cni-folder", self._places.conf_dir, self._check, recursive=True)
        self._watch.start()
        self._rechecks = threading.Thread(target=self._recheck, name="cni-recheck", daemon=True)
        self._rechecks.start()

    def stop(self) -> None:
        """End :meth:`keep`. The plugin stays in the node: pods wait for the next probe."""
        self._stop.set()
        if self._watch is not None:
            self._watch.stop()
        if self._rechecks is not None:
            self._rechecks.join()

    def _recheck(self) -> None:
        """Look now and then, because the program's folder is not watched."""
        while not self._stop.wait(_RECHECK_S):
            self._check()

    def _check(self) -> None:
        with self._lock:
            if self._stop.is_set():
                return
            try:
                self.install()
            except InstallationError as error:
                if str(error) != self.problem:
                    log.error("the CNI plugin is not installed", error=str(error))
                self.problem = str(error)
            else:
                self.problem = None

    def _add_to(self, first: Path) -> bool:
        text = first.read_text()
        if other := datapath_of(text):
            raise ConfigurationError(f"it is of {other[0]}, which carries packets past kubeweir's programs")
        changed = with_plugin(text, self._entry)
        target = first if first.suffix == _LIST else _beside(first)
        if changed is None or (target != first and target.exists() and target.read_text() == changed):
            return False
        _write(target, changed, like=first)
        return True

    def _take_out(self) -> bool:
        """Take the plugin out of every configuration. Raises OSError."""
        found = False
        for file in configurations(self._places.conf_dir):
            if file.name.endswith(_OWN):
                file.unlink(missing_ok=True)
                found = True
                continue
            with contextlib.suppress(ConfigurationError):
                changed = without_plugin(file.read_text())
                if changed is not None:
                    _write(file, changed, like=file)
                    found = True
        return found


def _beside(single: Path) -> Path:
    """Return the conflist that stands in for the file of a single plugin."""
    return single.with_name(single.stem + _OWN)


def _copy(program: Path, target: Path) -> None:
    """Copy the program, if it is not there already: a file that runs cannot be written to, so a new one is renamed."""
    with contextlib.suppress(FileNotFoundError):
        if filecmp.cmp(program, target, shallow=False) and os.access(target, os.X_OK):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}{_NEW}")

    def write() -> None:
        shutil.copyfile(program, new)
        new.chmod(0o755)

    _replace(new, target, write)


def _write(target: Path, text: str, like: Path) -> None:
    """Write a file with the mode and the owner of ``like``."""
    found = like.stat()
    # Its name ends so that no runtime reads it.
    new = target.with_name(f".{target.name}{_NEW}")

    def write() -> None:
        new.touch(mode=0o600)
        with contextlib.suppress(PermissionError):  # in a container, root may give nothing to other users
            os.chown(new, found.st_uid, found.st_gid)
        new.chmod(found.st_mode & 0o777)
        new.write_text(text)

    _replace(new, target, write)


def _replace(new: Path, target: Path, write: Callable[[], None]) -> None:
    """Write ``new``, and rename it to its place once it is on the disk."""
    try:
        write()
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
