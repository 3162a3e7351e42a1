"""Opens the maps in sizes that fit the node, and says which these are: in the log and as metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import structlog
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from enrich.sources.client import Client
from probe.kernel.description import read
from probe.kernel.ends_layout import ENDS
from probe.kernel.generations import Generation, open_generation
from probe.kernel.maps import Maps
from probe.kernel.program_cache import ProgramCache
from probe.kernel.sizes_in_force import generations_in_force
from probe.node.pod_capacity import pod_capacity
from probe.settings import Settings
from probe.sizing import chosen, memory_for_maps, memory_of

log = structlog.get_logger("kubeweir.probe")


def open_sized_generation(settings: Settings, client: Client | None) -> Generation:
    """Open this probe's generation of maps. ``client`` asks how many pods the node can have; None: there is no API.

    Raises what :func:`probe.kernel.generations.open_generation` raises.
    """
    requested, allowed = settings.sizes(), memory_for_maps()
    pods = pod_capacity(client, settings.node) if client and None in requested.values() else None
    found = generations_in_force(settings.pin_dir)
    interfaces = max((one.interfaces for one in found), default=0)
    # Of four bytes for connections, one is for what they carry.
    room = allowed * 3 // 4 if settings.ends else allowed
    sizes = chosen(requested, pods, room, [one.sizes for one in found], interfaces)
    if settings.ends:
        sizes[ENDS] = 1
    _say(settings, sizes, pods, allowed)
    return open_generation(settings.pin_dir, sizes, ProgramCache(settings.program_folder()))


def sizes_of(maps: Maps) -> dict[str, int]:
    """Return the sizes that a generation was made with, in lower case."""
    return {name.lower(): size for name, size in read(maps.folder)[1].items() if name != ENDS}


class SizeCollector(Collector):
    """Reports the sizes of the maps, which never change while the probe runs."""

    def __init__(self, settings: Settings, sizes: Mapping[str, int]) -> None:
        """``sizes`` are those of the maps (:func:`sizes_of`)."""
        self._requested = {name.lower(): size for name, size in settings.sizes().items()}
        self._sizes = sizes

    def collect(self) -> Iterator[Metric]:
        """Yield the size by setting."""
        family = GaugeMetricFamily(
            "kubeweir_probe_size",
            "Size of the kernel's maps by setting, and whether the setting or the node's capacity chose it",
            labels=["size", "chosen_by"],
        )
        for name, size in self._sizes.items():
            family.add_metric([name, "node" if self._requested.get(name) is None else "setting"], size)
        yield family


def _say(settings: Settings, sizes: Mapping[str, int], pods: int | None, allowed: int) -> None:
    needed = memory_of(sizes)
    automatic = {name.lower(): sizes[name] for name, size in settings.sizes().items() if size is None}
    log.info("sizes of the kernel's maps were chosen", pods="not known" if pods is None else pods,
             memory_mib=needed >> 20, allowed_mib=allowed >> 20, **automatic)  # fmt: skip
    if needed > allowed:
        log.warning("the kernel's maps take more than their part of the node's memory or of the container's limit: "
                    "raise the limit, or lower WEIR_CONNECTIONS and WEIR_ENDPOINTS",
                    memory_mib=needed >> 20, allowed_mib=allowed >> 20)  # fmt: skip
    if pods is not None and pods > sizes["ENDPOINTS"]:
        log.warning("the node can have more pods than the maps have room for, and those beyond stay closed: raise "
                    "WEIR_ENDPOINTS, and the sizes of which it takes a quarter at most",
                    pods=pods, endpoints=sizes["ENDPOINTS"])  # fmt: skip
