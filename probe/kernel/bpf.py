"""The bpf(2) system call, as far as the probe needs it, and membarrier(2).

bcc compiles the programs. Everything else is here, because pinned objects outlive bcc's. Attribute layouts are those of
``union bpf_attr`` in the kernel's include/uapi/linux/bpf.h. Every function raises :class:`OSError` with the command's
name in the message.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)
_SYS_BPF: Final = {"x86_64": 321, "aarch64": 280}
_SYS_MEMBARRIER: Final = {"x86_64": 324, "aarch64": 283}

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT = 0, 1, 2, 3, 4
_PROG_LOAD, _OBJ_PIN, _OBJ_GET, _PROG_RUN = 5, 6, 7, 10
_INFO_BY_FD, _PROG_QUERY, _MAP_LOOKUP_BATCH = 15, 16, 24
_LINK_CREATE, _LINK_UPDATE, _LINK_DETACH = 28, 29, 34

TCX_INGRESS: Final = 46
TCX_EGRESS: Final = 47
_XDP: Final = 37
_XDP_FLAGS_SKB_MODE: Final = 2
_BPF_F_BEFORE: Final = 1 << 3
_TC_ACT_SHOT, _XDP_DROP = 2, 1
_SCHED_CLS_TYPE, _XDP_TYPE = 3, 6
_ARRAY: Final = 2
ARRAY_OF_MAPS: Final = 12
_LOAD_ATTEMPTS: Final = 5
"""The verifier gives up with EAGAIN when a signal arrives (do_check in kernel/bpf/verifier.c)."""


def _bpf(command: int, attr: bytes, name: str) -> tuple[int, bytes]:
    """Return the result, and the attribute block as the kernel left it."""
    block = ctypes.create_string_buffer(attr, len(attr))
    result = _libc.syscall(_SYS_BPF[platform.machine()], command, block, len(attr))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf({name}): {os.strerror(code)}")
    return result, block.raw


def _address(buffer: ctypes.Array[ctypes.c_char] | int) -> int:
    return buffer if isinstance(buffer, int) else ctypes.addressof(buffer)


def pin(fd: int, path: Path) -> None:
    """Pin a map, program or link at a path in bpffs."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(_OBJ_PIN, struct.pack("=QI", _address(name), fd), f"OBJ_PIN {path}")


def get(path: Path) -> int:
    """Return a descriptor of the object pinned at ``path``. Raises FileNotFoundError if there is none."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(_OBJ_GET, struct.pack("=QI", _address(name), 0), f"OBJ_GET {path}")[0]


@dataclass(frozen=True, slots=True)
class MapInfo:
    """The first fields of ``struct bpf_map_info``; sizes in bytes."""

    kind: int
    number: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int

    @property
    def size(self) -> tuple[int, int, int, int, int]:
        """Return what must be equal for a map to stand in for another."""
        return self.kind, self.key_size, self.value_size, self.max_entries, self.flags


def map_info(fd: int) -> MapInfo:
    """Return a map's type and sizes."""
    return MapInfo(*struct.unpack_from("=6I", _info(fd, 88)))


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """The first fields of ``struct bpf_link_info`` of a link to a device."""

    kind: int
    number: int
    program: int
    """Its program's id."""
    ifindex: int
    """0: detached, or the device is gone."""


def link_info(fd: int) -> LinkInfo:
    """Return what a TCX or XDP link links."""
    return LinkInfo(*struct.unpack_from("=3I4xI", _info(fd, 32)))


def _info(fd: int, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    _bpf(_INFO_BY_FD, struct.pack("=IIQ", fd, size, _address(buffer)), "OBJ_GET_INFO_BY_FD")
    return buffer.raw


def lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """Return the value of a key (of all CPUs for a per-CPU map), or None if the key is missing."""
    key_buffer, value = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value_size)
    attr = struct.pack("=I4xQQQ", fd, _address(key_buffer), _address(value), 0)
    try:
        _bpf(_MAP_LOOKUP, attr, "MAP_LOOKUP_ELEM")
    except FileNotFoundError:
        return None
    return value.raw


def map_create(
    kind: int, key_size: int, value_size: int, max_entries: int, flags: int = 0, name: str = "", inner: int = 0
) -> int:
    """Create a map and return its descriptor. ``name`` is what tools show; it has at most 15 characters.

    ``inner``, for a map of maps, is the descriptor of a map that the maps in it resemble.
    """
    attr = struct.pack("=7I16s", kind, key_size, value_size, max_entries, flags, inner, 0, name.encode())
    return _bpf(_MAP_CREATE, attr, f"MAP_CREATE {name}".strip())[0]


def array_of_one(value: bytes) -> int:
    """Create an array of one element with this value."""
    fd = map_create(_ARRAY, 4, len(value), 1)
    update(fd, bytes(4), value)
    return fd


def update(fd: int, key: bytes, value: bytes) -> None:
    """Insert or overwrite one entry (BPF_ANY)."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value_buffer = ctypes.create_string_buffer(value, len(value))
    attr = struct.pack("=I4xQQQ", fd, _address(key_buffer), _address(value_buffer), 0)
    _bpf(_MAP_UPDATE, attr, "MAP_UPDATE_ELEM")


def delete(fd: int, key: bytes) -> bool:
    """Remove one entry. Return False if the key is missing."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    try:
        _bpf(_MAP_DELETE, struct.pack("=I4xQQQ", fd, _address(key_buffer), 0, 0), "MAP_DELETE_ELEM")
    except FileNotFoundError:
        return False
    return True


def keys(fd: int, key_size: int) -> Iterator[bytes]:
    """Yield every key (MAP_GET_NEXT_KEY), for maps that only user space writes, and for tries, which lack batches."""
    previous = 0
    holder: ctypes.Array[ctypes.c_char] | None = None
    while True:
        following = ctypes.create_string_buffer(key_size)
        try:
            _bpf(_MAP_NEXT, struct.pack("=I4xQQ", fd, previous, _address(following)), "MAP_GET_NEXT_KEY")
        except FileNotFoundError:
            return
        holder = following
        previous = _address(holder)
        yield following.raw


def entry_blocks(fd: int, key_size: int, value_size: int, batch: int = 4096) -> Iterator[tuple[bytes, bytes]]:
    """Yield blocks of the keys and values of a hash or array, each as joined bytes (MAP_LOOKUP_BATCH, kernel 5.6)."""
    cursor = ctypes.create_string_buffer(max(key_size, 8))
    key_block, value_block = (ctypes.create_string_buffer(batch * size) for size in (key_size, value_size))
    start = 0
    while True:
        attr = struct.pack(
            "=QQQQIIQQ", start, _address(cursor), _address(key_block), _address(value_block), batch, fd, 0, 0
        )
        block = ctypes.create_string_buffer(attr, len(attr))
        result = _libc.syscall(_SYS_BPF[platform.machine()], _MAP_LOOKUP_BATCH, block, len(attr))
        code = ctypes.get_errno() if result < 0 else 0
        # ENOENT marks the last batch, which may have entries too.
        if code not in (0, 2):
            raise OSError(code, f"bpf(MAP_LOOKUP_BATCH): {os.strerror(code)}")
        found = struct.unpack_from("=I", block.raw, 32)[0]
        if found:
            yield key_block.raw[: found * key_size], value_block.raw[: found * value_size]
        if code:
            return
        start = _address(cursor)


def program_run(fd: int, data: bytes, repeat: int = 1, context: bytes = b"") -> tuple[int, int]:
    """Run a program on a frame (BPF_PROG_RUN). Return its return value and the mean nanoseconds of a run.

    ``context`` is a ``struct __sk_buff`` (192 bytes), or empty.
    """
    frame = ctypes.create_string_buffer(data, len(data))
    given = ctypes.create_string_buffer(context, len(context)) if context else None
    attr = struct.pack(
        "=IIIIQQIIIIQQIII4x",
        fd, 0, len(data), 0, _address(frame), 0, repeat, 0,
        len(context), 0, _address(given) if given is not None else 0, 0, 0, 0, 0,
    )  # fmt: skip
    _, block = _bpf(_PROG_RUN, attr, "PROG_RUN")
    return struct.unpack_from("=I", block, 4)[0], struct.unpack_from("=I", block, 36)[0]


def link_create(program: int, ifindex: int, attach: int) -> int:
    """Attach a program by a TCX link (kernel 6.6), ahead of the device's other programs."""
    return _bpf(_LINK_CREATE, struct.pack("=IIIIIIQ", program, ifindex, attach, _BPF_F_BEFORE, 0, 0, 0), "LINK_CREATE")[
        0
    ]


def first_program(ifindex: int, attach: int) -> int:
    """Return the id of the program that runs first at a TCX hook of a device, 0 if there is none."""
    ids = (ctypes.c_uint32 * 64)()
    attr = struct.pack("=IIIIQI4xQQQQ", ifindex, attach, 0, 0, ctypes.addressof(ids), len(ids), 0, 0, 0, 0)
    _bpf(_PROG_QUERY, attr, "PROG_QUERY")
    return ids[0]


def link_create_closed(ifindex: int) -> int:
    """Attach a program by an XDP link (kernel 5.9) that drops everything that the device receives."""
    with closing(constant_program(_XDP_TYPE, _XDP_DROP)) as program:
        attr = struct.pack("=IIIIIIQ", program, ifindex, _XDP, _XDP_FLAGS_SKB_MODE, 0, 0, 0)
        return _bpf(_LINK_CREATE, attr, "LINK_CREATE")[0]


def constant_program(kind: int = _SCHED_CLS_TYPE, action: int = _TC_ACT_SHOT) -> int:
    """Load a program that returns one action for every packet: by default, a tc program that drops it."""
    # BPF_MOV64_IMM(r0, action), BPF_EXIT.
    return program_load(struct.pack("=BBhiBBhi", 0xB7, 0, 0, action, 0x95, 0, 0, 0), kind=kind)


def program_load(
    code: bytes,
    name: str = "",
    license_name: str = "Dual BSD/GPL",
    kind: int = _SCHED_CLS_TYPE,
    log: ctypes.Array[ctypes.c_char] | None = None,
) -> int:
    """Load a program, by default for tc, and return its descriptor. The verifier writes what it does into ``log``."""
    code_buffer = ctypes.create_string_buffer(code, len(code))
    license_buffer = ctypes.create_string_buffer(license_name.encode())
    attr = struct.pack(
        "=IIQQIIQII16s",
        kind, len(code) // 8, _address(code_buffer), _address(license_buffer),
        *((1, len(log), _address(log)) if log is not None else (0, 0, 0)), 0, 0, name.encode(),
    )  # fmt: skip
    for _ in range(_LOAD_ATTEMPTS - 1):
        with contextlib.suppress(BlockingIOError):
            return _bpf(_PROG_LOAD, attr, f"PROG_LOAD {name}".strip())[0]
    return _bpf(_PROG_LOAD, attr, f"PROG_LOAD {name}".strip())[0]


def link_update(link: int, program: int) -> None:
    """Replace a link's program. Every packet meets either the old or the new one."""
    _bpf(_LINK_UPDATE, struct.pack("=IIII", link, program, 0, 0), "LINK_UPDATE")


def link_detach(link: int) -> None:
    """Detach a link at once, whoever else has a reference to it. A detached link stays detached."""
    _bpf(_LINK_DETACH, struct.pack("=I", link), "LINK_DETACH")


def wait_for_programs() -> None:
    """Wait until every program run that is in progress now has ended.

    MEMBARRIER_CMD_GLOBAL is a synchronize_rcu() (kernel/sched/membarrier.c), and tc programs run inside
    rcu_read_lock (net/core/dev.c). Kernels with ``nohz_full`` CPUs refuse it (EINVAL), and seccomp profiles may. The
    other call that promises such a wait is the update of a map of maps (maybe_wait_bpf_programs in
    kernel/bpf/syscall.c). Raises OSError if neither works.
    """
    if _libc.syscall(_SYS_MEMBARRIER[platform.machine()], 1, 0, 0) < 0:
        outer, inner = _map_of_maps()
        update(outer, bytes(4), inner.to_bytes(4, "little"))


@functools.cache
def _map_of_maps() -> tuple[int, int]:
    """Create an array of one map, and that map; they live as long as the process."""
    inner = map_create(_ARRAY, 4, 4, 1)
    return map_create(ARRAY_OF_MAPS, 4, 4, 1, inner=inner), inner


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """Close a descriptor at the end of the with block."""
    try:
        yield fd
    finally:
        os.close(fd)
