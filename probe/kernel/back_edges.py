"""Make loops pass the verifiers of older kernels, which refuse some that the compiler makes: 5.10 and 6.1, not 6.12.

These verifiers first walk the instructions of a program as a graph, depth first (``check_cfg`` in
``kernel/bpf/verifier.c`` of Linux 5.10). An edge that leads back to an instruction of the present path closes a loop,
and is allowed only if a jump makes it. But the compiler may put the end of a loop's body right before the loop's first
instruction, so that the body *falls* into it::

        goto 3
    2:  i += 1              the body continues here, and falls into 3: "back-edge from insn 2 to 3"
    3:  if i > 8 goto 9
        ...
        goto 2

A jump to the next instruction does nothing, and makes the same edge a jump's. So one is put in wherever a body falls
back, for any compiler and source.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final

import numpy as np

from probe.kernel.bytecode import INSN, LD_IMM64

JUMPS_BACK: Final = 1
"""Which version of this module made a code."""

_JUMP, _JUMP32 = 0x05, 0x06
_ALWAYS, _CALL, _EXIT = 0x00, 0x80, 0x90
_GO_ON: Final = (_JUMP | _ALWAYS, 0, 0, 0)
"""``goto +0``."""
_LONG_JUMP, _MAY_GOTO = 0x06, 0xE5
"""Codes of jumps of newer kernels and compilers: ``gotol``, and one that the verifier may take out."""
_PSEUDO_FUNC: Final = 4
"""The source register of an ``LD_IMM64`` that loads the address of another function of the program, by its distance."""
_PSEUDO_CALL: Final = 1
"""The source register of a call of another function of the program; ``imm`` is the distance."""

Code = np.ndarray[tuple[int], np.dtype[np.void]]


class _State(enum.Enum):
    UNSEEN = 0
    ON_PATH = 1
    DONE = 2


def with_jumps_back(code: bytes) -> bytes:
    """Return the code with ``goto +0`` wherever an instruction that is not a jump falls back into a loop.

    The rest of the code is the same, with adapted distances. Raises OverflowError if a distance exceeds 16 bits, and
    ValueError if there is an instruction with a distance that is not known here."""
    instructions: Code = np.frombuffer(code, INSN)
    _refuse_unknown(instructions)
    places = sorted(_fallen_into(instructions))
    return _inserted(instructions, places).tobytes() if places else code


def _refuse_unknown(code: Code) -> None:
    """Raise ValueError for an instruction whose distance would stay as it is, so that it would lead elsewhere."""
    unknown = np.isin(code["code"], [_LONG_JUMP, _MAY_GOTO])
    unknown |= (code["code"] == LD_IMM64) & (code["registers"] >> 4 == _PSEUDO_FUNC)
    if unknown.any():
        at = int(np.flatnonzero(unknown)[0])
        raise ValueError(
            f"instruction {at} ({int(code['code'][at]):#04x}) has a distance of a kind that is not known here"
        )


def _fallen_into(code: Code) -> set[int]:
    """Return the instructions that one before them falls back into, by the walk of ``check_cfg``."""
    found: set[int] = set()
    states = [_State.UNSEEN] * len(code)
    states[0] = _State.ON_PATH
    path = [(0, _edges(code, 0))]
    while path:
        at, edges = path[-1]
        for to, is_jump in edges:
            if states[to] is _State.UNSEEN:
                states[to] = _State.ON_PATH
                path.append((to, _edges(code, to)))
                break
            if states[to] is _State.ON_PATH and not is_jump:
                found.add(to)
        else:
            states[at] = _State.DONE
            path.pop()
    return found


def _edges(code: Code, at: int) -> Iterator[tuple[int, bool]]:
    """Yield where an instruction leads to, in the verifier's order, and whether it may lead back there."""
    operation = _jump(code, at)
    if operation is None:
        yield at + 1, False
    elif operation == _CALL:
        yield at + 1, False
        if _calls_own(code, at):
            yield at + 1 + int(code["imm"][at]), False
    elif operation == _ALWAYS:
        yield at + 1 + int(code["offset"][at]), True
    elif operation != _EXIT:
        yield at + 1, True
        yield at + 1 + int(code["offset"][at]), True


def _jump(code: Code, at: int) -> int | None:
    """Return the operation of a jump, call or exit; None of any other instruction."""
    found = int(code["code"][at])
    return found & 0xF0 if found & 0x07 in {_JUMP, _JUMP32} else None


def _calls_own(code: Code, at: int) -> bool:
    return int(code["registers"][at]) >> 4 == _PSEUDO_CALL


def _inserted(code: Code, places: list[int]) -> Code:
    moved = np.arange(len(code)) + np.searchsorted(places, np.arange(len(code)), side="right")
    made = np.insert(code, places, np.array(_GO_ON, INSN))
    for at in range(len(code)):
        operation = _jump(code, at)
        if operation is None or operation == _EXIT:
            continue
        if operation == _CALL:
            if _calls_own(code, at):
                made["imm"][moved[at]] = moved[at + 1 + int(code["imm"][at])] - moved[at] - 1
            continue
        made["offset"][moved[at]] = _distance(moved[at + 1 + int(code["offset"][at])] - moved[at] - 1)
    return made


def _distance(distance: int) -> int:
    if not -0x8000 <= distance < 0x8000:
        raise OverflowError(f"a jump over {distance} instructions does not fit its 16 bits")
    return distance
