"""Generations of maps and programs: how one with another size or layout takes over, while packets flow.

THEORY OF OPERATION. The kernel cannot resize a map, and programs of one layout cannot read maps of another. So each
combination of layout and sizes is a generation, pinned in a folder of its own, for example ``v6-1f0c93ab``. The links
are pinned beside these folders, because they outlive a generation. A probe that finds another generation (made with
other settings, by an older or by a newer version) takes over from it:

1. It builds its own generation. What packets need on their way (connections, fragments, stamps) is shared with the
   other generation if size and layout are equal: both then have the same map. The endpoints are copied, so that the
   probe knows what the last one had bound. No interface uses the new generation yet.
2. The installer fills it with policy, as at every start.
3. Connections that are not shared are carried over. Then each interface is moved: its link, or its filter, gets the new
   program in one step, so every packet is judged by one whole generation. What changes meanwhile is carried over again
   with each interface, by the time of a connection's last packet.
4. Interfaces that no pod claims are moved as well. Now no packet meets the old programs.
5. The old deny windows are closed, and the old ring is read to its end, by its own layout, ring id and numbers
   (``probe.export.drain``). Until then the spool gets nothing of the new ring, so its last header says where to go on.
6. The old generation's pins are removed, the ring first: a folder without a ring is rubbish.

A probe that is killed between any two steps leaves each interface with one whole generation. The next probe takes over
from all that it finds, in the same way, whichever of them it wants itself.

Two generations must not take each other's verdicts for current ones, although both write to shared connections. So one
that takes over begins with an epoch that no other has had. The generation with the highest epoch was in force last: its
word of logging has the last valid NetworkLogging.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from probe.kernel import bpf, description
from probe.kernel.carrying import Carrier, copy_endpoints, forget_other_table
from probe.kernel.deny_windows import DenyWindows, packets_waiting
from probe.kernel.ends import report_all, with_references
from probe.kernel.ends_layout import ENDS, ENDS_MAPS, TRAFFIC_MAP
from probe.kernel.layout import MAPS, VERSION, Config
from probe.kernel.maps import Maps
from probe.kernel.numbers_in_maps import highest_numbers
from probe.kernel.place_expiry import PlaceExpiry
from probe.kernel.program_cache import ProgramCache
from probe.policy.logging import KERNEL_BITS

LINKS: Final = "links"
"""The folder of the links, beside those of the generations."""
_SHARED: Final = {
    ("connections", "places", "emptying", "budgets", "origins"): ("CONNECTIONS", "ENDPOINTS", ENDS),
    ("fragments", "fragment_places"): ("FRAGMENTS", "ENDPOINTS"),
    ("slots", "cursors"): (),
    ("unready_origins",): (),
    ("backends",): (),
    ("link_addresses",): (),
}
"""Maps that refer to each other and are shared together, and the sizes on which their contents depend."""
_EPOCHS_PER_S: Final = 64
"""More than there are installations in a second, on average."""

log = structlog.get_logger("kubeweir.probe")


class Predecessor:
    """Another generation, until it is removed."""

    def __init__(self, folder: Path) -> None:
        self.layout, self.sizes = description.read(folder)
        self.maps = Maps.adopt(folder, self.layout.maps, self.layout.verdict)
        self.retired = threading.Event()
        """Set when its programs run no more and all that they have counted is in its ring."""
        self.windows = DenyWindows(self.maps)
        self._lock = threading.Lock()
        self._closed = self.is_removed = self._shares_traffic = False

    def shareable(self, sizes: Mapping[str, int]) -> dict[str, Path]:
        """Return the pins of the maps that a generation of this version with ``sizes`` can use too."""
        found: dict[str, Path] = {}
        for names, needed in _SHARED.items():
            is_equal = all(name in self.maps and self.layout.maps[name] == MAPS[name] for name in names)
            if is_equal and all(self.sizes.get(size) == sizes.get(size) for size in needed):
                found |= {name: self.maps.folder / name for name in names}
        if "places" in found and sizes.get(ENDS):
            if self.layout.maps.get(TRAFFIC_MAP) == ENDS_MAPS[TRAFFIC_MAP]:
                found[TRAFFIC_MAP] = self.maps.folder / TRAFFIC_MAP
            else:
                # The traffic of a place says whose it is: connections that have none would never be counted.
                found = {name: pin for name, pin in found.items() if name not in next(iter(_SHARED))}
        self._shares_traffic = TRAFFIC_MAP in found
        return found

    def endpoints(self) -> dict[bytes, bytes]:
        """Return both sides of each endpoint as this version writes them, equal to the one that is in force."""
        layout, side = self.layout.maps["endpoints"].value, self.maps.config(Config.EPOCH) & 1
        items = self.maps["endpoints"].items().items()
        return {key: description.endpoint_sides(value, layout, side) for key, value in items}

    def numbers(self) -> dict[str, int]:
        """Return the highest number of each kind in the policy maps, for a ledger that was lost."""
        return highest_numbers(self.maps, self.layout.maps)

    def references(self) -> dict[str, set[int]]:
        """Return the numbers of the ledger that are still to be reported, by kind, without those of shared maps."""
        found = self.windows.references()
        return found if self._shares_traffic else with_references(self.maps, found)

    def rotate(self) -> None:
        """Close the deny windows, unless that is done for good."""
        with self._lock:
            if not self.retired.is_set():
                self.windows.rotate()

    def retire(self) -> None:
        """Close the deny windows for good; no program counts in them any more.

        ``retired`` is set unless the ring was full. The caller then calls again.
        """
        # Nothing is cut any more, and the windows that are left need not wait, nor does a rotation that has the lock.
        if self.maps.config(Config.LIMIT_DENIED):  # earlier layouts have no such word
            self.maps.configure(Config.LIMIT_DENIED, 0)
        with self._lock:
            self.windows.rotate()
            self.windows.rotate()
            if not packets_waiting(self.maps) and (self._shares_traffic or not report_all(self.maps)):
                self.retired.set()

    def close(self) -> None:
        """Close the descriptors. What is pinned stays."""
        if not self._closed:
            self._closed = True
            self.maps.close()

    def remove(self) -> None:
        """Remove the pins. The ring goes first, so that a probe that finds the rest does not read it again."""
        self.close()
        remove(self.maps.folder)
        self.is_removed = True
        log.info("the generation before was read to its end and is removed", generation=self.maps.folder.name)


class Generation:
    """This probe's generation, and those that it takes over from."""

    def __init__(self, maps: Maps, predecessors: list[Predecessor], unreadable: Sequence[Path] = ()) -> None:
        """``unreadable`` are the folders of generations whose layout is not known: only their programs are replaced."""
        self.maps = maps
        self.predecessors = predecessors
        self._unreadable = list(unreadable)
        self.filled = not (predecessors or unreadable)
        """Whether policy is installed. Until then, no interface is moved that a predecessor enforces."""
        self._windows = DenyWindows(maps)
        self.after_rotation: Callable[[], None] = lambda: None
        """Called when deny windows were closed, by the thread that closes them."""
        self._expiry = PlaceExpiry(maps)
        if not predecessors:
            forget_other_table(maps)
        # The table of the one that was in force last is looked into.
        found = sorted(predecessors, key=lambda one: one.maps.config(Config.EPOCH))
        self._carriers = [(one, Carrier(one.maps, maps)) for one in found]

    @property
    def pending(self) -> list[Predecessor]:
        """The predecessors whose programs may still run."""
        return [one for one in self.predecessors if not one.retired.is_set()]

    @property
    def is_alone(self) -> bool:
        """Whether no other generation has verdicts or windows that are still to be read."""
        return all(one.is_removed for one in self.predecessors)

    def references(self) -> dict[str, set[int]]:
        """Return the numbers of the ledger that open deny windows, and connections to be reported, have, by kind."""
        return with_references(self.maps, self._windows.references())

    def carry(self) -> None:
        """Carry over the connections that have changed since the last call."""
        for _, carrier in self._carriers:
            carrier.carry()

    def finish(self, move_rest: Callable[[], None]) -> None:
        """End the predecessors, once policy is installed and pods' interfaces are moved; ``move_rest`` moves others."""
        if self.pending or self._unreadable:
            move_rest()
            self.retire()
            while self._unreadable:
                remove(self._unreadable.pop())

    def retire(self) -> None:
        """End the predecessors, none of whose programs is attached any more."""
        bpf.wait_for_programs()
        self.carry()
        forget_other_table(self.maps)
        for one in self.pending:
            one.retire()
        self._carriers = [(one, carrier) for one, carrier in self._carriers if not one.retired.is_set()]

    def rotate(self) -> None:
        """Begin the next deny window here and in the predecessors, and close the current one. Empty expired places."""
        self._windows.rotate()
        self.after_rotation()
        self._expiry.step()
        for one in self.pending:
            one.rotate()

    def rotate_every(self, window_s: float, stop: threading.Event) -> None:
        """Call :meth:`rotate` every ``window_s`` seconds until ``stop`` is set."""
        for windows in (self._windows, *(one.windows for one in self.predecessors)):
            windows.stop = stop
        due = time.monotonic() + window_s
        while not stop.wait(max(0.0, due - time.monotonic())):
            self.rotate()
            due = max(due + window_s, time.monotonic())

    def close(self) -> None:
        """Close the descriptors. What is pinned stays."""
        for one in self.predecessors:
            one.close()
        self.maps.close()


def open_generation(pins: Path, sizes: Mapping[str, int], cache: ProgramCache | None = None) -> Generation:
    """Open this version's generation with ``sizes`` in the folder ``pins``, and those that it takes over from.

    Programs that are in ``cache`` are not compiled. Raises LayoutError, program.LoadError.
    """
    folder = pins / generation_name(sizes)
    (pins / LINKS).mkdir(parents=True, exist_ok=True)
    predecessors, unreadable = [], []
    for found in sorted(pins.iterdir()):
        if found.name in (LINKS, folder.name) or not found.is_dir():
            continue
        _gather_links(found, pins / LINKS)
        if not description.was_used(found):
            remove(found)
        elif description.is_readable(found):
            predecessors.append(Predecessor(found))
        else:
            unreadable.append(found)
    shared = {name: pin for one in predecessors for name, pin in one.shareable(sizes).items()}
    maps = Maps.open(folder, sizes, shared, cache)
    description.write(folder, sizes)
    if predecessors:
        _say(predecessors, folder.name, sizes)
        found_epochs = {one.maps.config(Config.EPOCH): one for one in predecessors}
        # Its own is not 0 if this generation was in force before those, and was not removed.
        own, highest = maps.config(Config.EPOCH), max(found_epochs)
        if own <= highest:
            # The kernel's bits stay 0, so that all is logged until the lists are made.
            maps.configure(Config.LOGGING, found_epochs[highest].maps.config(Config.LOGGING) & ~KERNEL_BITS)
            # Last: it says that all of this was copied, should the probe be killed in between. The side stays.
            maps.configure(Config.EPOCH, _unused_epoch(highest) | own & 1)
        for one in predecessors:
            copy_endpoints(one.endpoints(), maps["endpoints"])
    return Generation(maps, predecessors, unreadable)


def generation_name(sizes: Mapping[str, int]) -> str:
    """Return the name of this version's generation with these sizes."""
    return f"{VERSION}-{hashlib.sha256(description.OWN.encode(sizes)).hexdigest()[:8]}"


def remove(folder: Path) -> None:
    """Remove a generation's pins, the ring first."""
    (folder / "events").unlink(missing_ok=True)
    for path in sorted(folder.rglob("*"), key=lambda found: len(found.parts), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def _gather_links(folder: Path, links: Path) -> None:
    """Move the links that 0.1.0 has pinned inside its generation to where they outlive it."""
    for pin in (folder / LINKS).iterdir() if (folder / LINKS).exists() else ():
        place = links / pin.name
        if place.exists():
            # 0.1.0 was started after a later version, and has attached beside it.
            with bpf.closing(bpf.get(place)) as other:
                bpf.link_detach(other)
        pin.rename(place)


def _unused_epoch(highest: int) -> int:
    """Return an even epoch that no generation has had since the node booted; ``highest`` is of those that are found."""
    return (max(highest, int(time.clock_gettime(time.CLOCK_BOOTTIME) * _EPOCHS_PER_S)) + 2) & ~1


def _say(predecessors: list[Predecessor], name: str, sizes: Mapping[str, int]) -> None:
    for one in predecessors:
        changed = {
            setting: f"{one.sizes.get(setting)} -> {size}"
            for setting, size in sizes.items()
            if one.sizes and one.sizes.get(setting) != size
        }
        log.info(
            "another generation of maps is in force, with other sizes or another layout: this probe fills its own, "
            "takes over the connections, moves every interface, and then removes the other",
            found=one.maps.folder.name, own=name, sizes=changed, found_layout=one.layout.version, layout=VERSION,
        )  # fmt: skip
