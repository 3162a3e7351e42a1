"""Runs classes of attacks in both ways of attaching, and says a line for each."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from probe.kernel.attach import Mode
from probe.kernel.program import LoadError
from tests.attack.ground import Ground
from tests.attack.tally import Attack, Tally
from tests.kernel.rig import SIZES, Rig


def run(
    attacks: Iterable[Attack],
    modes: Sequence[Mode],
    rounds: int,
    say: Callable[[str], None],
    *,
    most: int = 2,
    sizes: Mapping[str, int] = SIZES,
) -> bool:
    """Run all of them; return whether nothing got through and nothing was wrongly denied.

    The first ``most`` of the modes that the kernel has are used; TCX is left out, and said so, where it has none.
    The programs are compiled with ``sizes``. Raises LoadError if no mode is left."""
    with ExitStack() as stack:
        rigs: list[Rig] = []
        for mode in modes:
            if len(rigs) == most:
                break
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            rig = Rig(folder, mode, sizes=sizes)
            stack.callback(rig.close)
            if mode == "tcx" and rig.attachments.supported() != "tcx":
                say("this kernel has no TCX, which is there from 6.6 on: nothing is attached that way")
            else:
                rigs.append(rig)
        if not rigs:
            raise LoadError("no way of attaching is left: choose --mode clsact")
        return report(attacks, lambda one: on_all(one, rigs, rounds), say)


def report(attacks: Iterable[Attack], measure: Callable[[Attack], Tally], say: Callable[[str], None]) -> bool:
    """Say a line for each class and a last one for all. A class that cannot run has failed."""
    total, classes, broken = Tally(), 0, 0
    for one in attacks:
        classes += 1
        try:
            tally = measure(one)
        except Exception:
            broken += 1
            say(f"{one.title}: DID NOT RUN\n{traceback.format_exc()}")
            continue
        total = total.plus(tally)
        failed = "FAILED: " if tally.got_through or tally.lost or not tally.attempts else ""
        say(f"{failed}{one.title}: {tally.attempts} attempts, {tally.got_through} got through; "
            f"{tally.allowed} allowed, {tally.lost} of them lost")  # fmt: skip
        broken += not tally.attempts
    if broken:
        say(f"{broken} classes did not run")
    say(f"{classes} classes, {total.attempts} attempts, {total.got_through} got through, {total.lost} wrongly denied")
    return not (total.got_through or total.lost or broken)


def on_all(one: Attack, rigs: Iterable[Rig], rounds: int) -> Tally:
    """Run one class on each of the rigs, and return the sum."""
    total = Tally()
    for rig in rigs:
        ground = Ground(rig, rounds)
        try:
            for tally in one.run(ground):
                total = total.plus(tally)
        finally:
            ground.close()
    return total
