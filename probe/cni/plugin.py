"""The CNI plugin as a part of the probe: its socket, its requests and its installation, made from the settings."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Final

import structlog

from enrich.index.cluster import Cluster
from probe.cni.conflist import TYPE
from probe.cni.installation import Installation, InstallationError, Places
from probe.cni.requests import Ask, Enforcer, Requests
from probe.cni.server import Server
from probe.node.assignments import Assignments
from probe.node.netlink import NodeNetwork
from probe.settings import Settings

log = structlog.get_logger("kubeweir.cni")

SOCKET: Final = "cni.sock"
"""Name of the socket, in the run folder."""


class Plugin:
    """Answers the plugin's requests, and keeps it in the node's configuration."""

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        network: NodeNetwork,
        assignments: Assignments,
        enforcer: Enforcer,
        ask: Ask | None,
    ) -> None:
        self.requests = Requests(
            settings.node, cluster, network, assignments, enforcer, ask,
            wait_s=settings.cni_wait, lets_through=settings.cni_on_failure == "open",
        )  # fmt: skip
        self._server = Server(settings.run_dir / SOCKET, self.requests.answer)
        self._installation = installation(settings)

    def start(self) -> None:
        """Listen, then install."""
        self._server.start()
        self._installation.keep()

    def problem(self) -> str | None:
        """Return why pods start without the plugin, or do not start at all; None if the plugin works."""
        return self._server.problem or self._installation.problem

    def stop(self) -> None:
        """Stop to answer. Pods that start now wait for the next probe."""
        self._installation.stop()
        self._server.stop()


def installation(settings: Settings, program: Path | None = None) -> Installation:
    """Return the plugin's installation on this node. The program is beside the command ``weir-probe``."""
    places = Places(program or Path(sysconfig.get_path("scripts")) / TYPE, settings.cni_bin_dir, settings.cni_conf_dir)
    return Installation(places, {
        "socket": str(settings.run_dir / SOCKET), "wait": settings.cni_wait, "onFailure": settings.cni_on_failure,
    })  # fmt: skip


def uninstall(settings: Settings) -> None:
    """Take the plugin out of the node, where it is; an error is logged, because enforcement ends all the same."""
    try:
        if installation(settings).remove():
            log.info("the CNI plugin was taken out of the node's configuration", folder=str(settings.cni_conf_dir))
    except InstallationError as error:
        log.error("the CNI plugin is still in the node's configuration", error=str(error))
