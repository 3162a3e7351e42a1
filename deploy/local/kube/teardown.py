"""Remove everything that a cluster has made. It is found by name, so that a half-made cluster is removed too."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Final

from kube.node import container_ids
from kube.plan import BRIDGE, HOME, ClusterError, is_node
from kube.processes import kill_all, run

_MOUNT_POINTS: Final = (Path("/opt/cni"), Path("/etc/cni"))
"""Folders that a node has of its own, and that this machine must have too."""


def sweep() -> list[str]:
    """Remove the cluster and return what was found, in words. Raises ClusterError if something could not be removed."""
    containers = container_ids()
    found = [f"process {name}" for name in kill_all()]
    for space in _spaces():
        run("ip", "netns", "del", space)
        found.append(f"namespace {space}")
    for link in _links():
        # The link may be gone already: the kernel deletes a veth pair with the namespace of either end.
        run("ip", "link", "del", link, check=False)
        found.append(f"link {link}")
    found += [f"cgroups of {count} containers" for count in (_remove_cgroups(containers),) if count]
    for folder in _MOUNT_POINTS:
        with contextlib.suppress(OSError):  # it is not there, or it has something of this machine's own
            folder.rmdir()
    if HOME.exists():
        shutil.rmtree(HOME)
        found.append(f"folder {HOME}")
    if left := [*_spaces(), *_links()]:
        raise ClusterError(f"could not be removed: {', '.join(left)}")
    return found


def _spaces() -> list[str]:
    listed = run("ip", "netns", "list").stdout.splitlines()
    return [line.split()[0] for line in listed if is_node(line)]


def _links() -> list[str]:
    listed = json.loads(run("ip", "-j", "link", "show").stdout or "[]")
    return [link["ifname"] for link in listed if link["ifname"] == BRIDGE or is_node(link["ifname"])]


def _remove_cgroups(ids: set[str]) -> int:
    """Remove the cgroups that runc made for these containers, and return how many."""
    removed = set()
    for folder in (*Path("/sys/fs/cgroup").glob("*/k8s.io/*"), *Path("/sys/fs/cgroup").glob("k8s.io/*")):
        if folder.name in ids:
            with contextlib.suppress(OSError):
                for inner in sorted(folder.rglob("*/"), reverse=True):
                    inner.rmdir()
                folder.rmdir()
                removed.add(folder.name)
    parents = {*Path("/sys/fs/cgroup").glob("*/k8s.io"), *Path("/sys/fs/cgroup").glob("k8s.io")}
    for parent in parents if HOME.exists() else ():
        with contextlib.suppress(OSError):
            parent.rmdir()
    return len(removed)
