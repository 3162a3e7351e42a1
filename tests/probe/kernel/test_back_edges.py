"""Loops pass the verifier of older kernels: no instruction that is not a jump leads back."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np
import pytest

from probe.kernel.back_edges import with_jumps_back
from probe.kernel.bytecode import INSN

_ADD, _GOTO, _IF_GREATER, _CALL, _EXIT = 0x07, 0x05, 0x25, 0x85, 0x95
"""``r0 += imm``, ``goto offset``, ``if r0 > imm goto offset``, ``call imm``, ``exit``."""
_OWN = 0x10
"""The registers of a call of the program's own function."""

Instruction = tuple[int, int, int, int]


def _code(*instructions: Instruction) -> bytes:
    return b"".join(struct.pack("<BBhi", *instruction) for instruction in instructions)


def _read(code: bytes) -> list[Instruction]:
    return [tuple(one) for one in np.frombuffer(code, INSN).tolist()]


FALLS_BACK = (
    (_ADD, 0, 0, 0),
    (_GOTO, 0, 1, 0),
    (_ADD, 0, 0, 1),  # 2: falls into 3
    (_IF_GREATER, 0, 2, 8),
    (_ADD, 0, 0, 5),
    (_GOTO, 0, -4, 0),
    (_EXIT, 0, 0, 0),
)


def _run(code: bytes) -> int:
    """Run a program of these instructions, and return r0."""
    r0, at, calls, steps = 0, 0, list[int](), 0
    instructions = _read(code)
    while (steps := steps + 1) < 1_000:
        operation, registers, offset, imm = instructions[at]
        at += 1
        if operation == _ADD:
            r0 += imm
        elif operation == _GOTO or (operation == _IF_GREATER and r0 > imm):
            at += offset
        elif operation == _CALL and registers == _OWN:
            calls.append(at)
            at += imm
        elif operation == _EXIT:
            if not calls:
                return r0
            at = calls.pop()
    raise AssertionError("the program does not end")


def test_a_body_that_falls_into_its_loop_jumps_there() -> None:
    made = with_jumps_back(_code(*FALLS_BACK))
    assert _read(made) == [
        (_ADD, 0, 0, 0),
        (_GOTO, 0, 2, 0),
        (_ADD, 0, 0, 1),
        (_GOTO, 0, 0, 0),
        (_IF_GREATER, 0, 2, 8),
        (_ADD, 0, 0, 5),
        (_GOTO, 0, -5, 0),
        (_EXIT, 0, 0, 0),
    ]
    assert _run(made) == _run(_code(*FALLS_BACK)) == 12
    assert with_jumps_back(made) == made


@pytest.mark.parametrize(
    "instructions",
    [
        [(_ADD, 0, 0, 1), (_EXIT, 0, 0, 0)],
        # A loop that a jump closes, as most are.
        [(_ADD, 0, 0, 1), (_IF_GREATER, 0, 1, 8), (_GOTO, 0, -3, 0), (_EXIT, 0, 0, 0)],
        # A jump forward over code that falls forward.
        [(_IF_GREATER, 0, 1, 8), (_ADD, 0, 0, 1), (_EXIT, 0, 0, 0)],
    ],
)
def test_other_code_stays_as_it_is(instructions: Iterable[Instruction]) -> None:
    code = _code(*instructions)
    assert with_jumps_back(code) is code


def test_a_call_over_the_new_jump_still_finds_its_function() -> None:
    calling = ((_CALL, _OWN, 0, len(FALLS_BACK)), *FALLS_BACK, (_ADD, 0, 0, 3), (_EXIT, 0, 0, 0))
    made = with_jumps_back(_code(*calling))
    assert len(made) == len(_code(*calling)) + INSN.itemsize
    assert _run(made) == _run(_code(*calling)) == 9


def test_a_call_of_a_helper_is_no_distance() -> None:
    made = _read(with_jumps_back(_code((_CALL, 0, 0, 25), *FALLS_BACK)))
    assert made[0] == (_CALL, 0, 0, 25)


@pytest.mark.parametrize("unknown", [(0x06, 0, 0, 1), (0xE5, 0, 1, 0), (0x18, 0x40, 0, 1)])
def test_a_distance_of_another_kind_is_refused_instead_of_leading_elsewhere(unknown: Instruction) -> None:
    with pytest.raises(ValueError, match="instruction 0 "):
        with_jumps_back(_code(unknown, *FALLS_BACK))


def test_a_distance_that_no_longer_fits_is_refused() -> None:
    far = (*FALLS_BACK[:-1], *[(_ADD, 0, 0, 0)] * 0x7FFE, (_EXIT, 0, 0, 0))
    with pytest.raises(OverflowError, match="32768 instructions"):
        with_jumps_back(_code((_IF_GREATER, 0, 0x7FFF, 0), *far))
