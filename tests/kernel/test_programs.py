"""Programs that an earlier start has compiled are those that a compiler makes now, to the kernel and to the probe."""

from __future__ import annotations

import secrets
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import structlog

import bpf as sources
from probe.kernel import bpf, compiler, program
from probe.kernel.back_edges import with_jumps_back
from probe.kernel.bytecode import Bytecode
from probe.kernel.ends_layout import TRAFFIC_MAP
from probe.kernel.maps import Maps
from probe.kernel.program import LoadError
from probe.kernel.program_cache import ProgramCache
from probe.kernel.source import joined
from tests.kernel.rig import SIZES, WITH_ENDS
from tests.programs import CACHE

pytestmark = pytest.mark.kernel

_COMPILED = "kernel programs compiled"


@pytest.fixture
def pins() -> Iterator[Path]:
    """A folder of pins of the test's own."""
    folder = Path("/sys/fs/bpf") / f"kubeweir-test-{secrets.token_hex(3)}"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _facts(descriptor: int) -> dict[str, str]:
    """Return what the kernel says of a program or a map."""
    lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    found = dict(line.split(":\t", maxsplit=1) for line in lines)
    others = ("pos", "flags", "mnt_id", "ino", "prog_id", "map_id", "memlock", "run_time_ns", "run_cnt", "frozen")
    return {name: value for name, value in found.items() if name not in others}


def _opened(folder: Path, cache: ProgramCache, sizes: Mapping[str, int] = SIZES) -> dict[str, dict[str, str]]:
    """Open maps and programs as a start of the probe does. Return what the kernel says of all of them."""
    Maps.open(folder, sizes, cache=cache).close()
    found = {}
    for pin in sorted(folder.iterdir()):
        with bpf.closing(bpf.get(pin)) as descriptor:
            found[pin.name] = _facts(descriptor)
    return found


def test_a_start_that_compiles_and_one_that_does_not_make_the_same(
    pins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with structlog.testing.capture_logs() as logs:
        compiled = _opened(pins / "first", ProgramCache(tmp_path))
        assert [line["event"] for line in logs] == [_COMPILED]
        stored = _opened(pins / "second", ProgramCache(tmp_path))
        assert [line["event"] for line in logs] == [_COMPILED]
    assert stored == compiled
    assert {name for name, facts in stored.items() if "prog_tag" in facts} == set(program.PROGRAMS)
    assert int(stored["connections"]["max_entries"]) > SIZES["CONNECTIONS"]
    _no_loop_is_closed_by_falling_back(tmp_path)
    _a_restart_adopts_its_maps(pins / "second", ProgramCache(tmp_path), stored)
    _refused_programs_are_compiled_again(pins / "second", tmp_path, compiled, monkeypatch)


def _a_restart_adopts_its_maps(folder: Path, cache: ProgramCache, expected: dict[str, dict[str, str]]) -> None:
    key, value = bytes(4), (7).to_bytes(8, "little")
    with bpf.closing(bpf.get(folder / "tunnel_ports")) as descriptor:
        bpf.update(descriptor, key, value)
    assert _opened(folder, cache) == expected
    with bpf.closing(bpf.get(folder / "tunnel_ports")) as descriptor:
        assert bpf.lookup(descriptor, key, 8) == value


def _refused_programs_are_compiled_again(
    folder: Path, files: Path, expected: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel decides what is loaded, not the file."""
    cache = ProgramCache(files)
    name, good = _only_one(files)
    # Without its last instruction, the exit, a program may not be loaded.
    one = good.programs["pod_egress"]
    bad = {**good.programs, "pod_egress": type(one)(one.code[:-8], one.references)}
    cache.store(name, Bytecode(good.license_name, good.maps, bad))
    # The compiler makes the same again: that it does, the first start has shown.
    monkeypatch.setattr(compiler, "compiled", lambda *_: good)
    with structlog.testing.capture_logs() as logs:
        assert _opened(folder, cache) == expected
    assert [line["event"] for line in logs if line["log_level"] != "debug"] == [
        "the kernel refused programs that an earlier start has compiled: they are compiled again", _COMPILED,
    ]  # fmt: skip
    assert cache.load(name) == good


def _only_one(files: Path) -> tuple[str, Bytecode]:
    """Return the name of the only file in the folder of a cache, and the compiled programs in it."""
    (name,) = [path.name for path in files.iterdir()]
    compiled = ProgramCache(files).load(name)
    assert compiled is not None
    return name, compiled


def _no_loop_is_closed_by_falling_back(files: Path) -> None:
    """Kernels 5.10 and 6.1 refuse such a loop; that of the machine on which the tests run need not."""
    _, compiled = _only_one(files)
    assert {name for name, one in compiled.programs.items() if with_jumps_back(one.code) != one.code} == set()


def test_the_programs_that_report_connections_have_no_such_loop_either(pins: Path, tmp_path: Path) -> None:
    opened = _opened(pins / "ends", ProgramCache(tmp_path), WITH_ENDS)
    assert TRAFFIC_MAP in opened
    assert {name for name, facts in opened.items() if "prog_tag" in facts} == set(program.PROGRAMS)
    _no_loop_is_closed_by_falling_back(tmp_path)


def test_a_signal_while_the_verifier_works_is_not_a_refusal(pins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier gives up then. A probe that is told to stop while it starts has to start first."""
    arrived: list[int] = []
    # This is how the log of a refusal is asked for, which takes several times as long.
    monkeypatch.setattr(program, "_VERIFIER_LOG_BYTES", -1)
    before = signal.signal(signal.SIGALRM, lambda number, _frame: arrived.append(number))
    try:
        # The largest program alone takes longer.
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        _opened(pins / "interrupted", CACHE)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert arrived == [signal.SIGALRM]


def test_the_log_of_the_verifier_reaches_the_user(pins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "policy.c"
    source.write_text(
        "#include <uapi/linux/bpf.h>\n" + "int broken(struct __sk_buff *skb) { return *(int *)(long)skb->len; }\n"
    )
    monkeypatch.setattr(sources, "POLICY_SOURCE", source)
    monkeypatch.setattr(program, "PROGRAMS", ("broken",))
    pins.mkdir()
    with pytest.raises(LoadError) as raised:
        program.build(pins, {}, {}, ProgramCache(tmp_path / "programs"))
    assert "PROG_LOAD broken" in str(raised.value)
    assert "invalid mem access" in raised.value.log
    assert not (tmp_path / "programs").exists()
    source.write_text("int broken(\n")
    with pytest.raises(LoadError) as raised:
        program.build(pins, {}, {})
    assert "error:" in raised.value.log
    assert list(pins.iterdir()) == []


def test_what_is_compiled_from_is_in_the_fingerprint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = joined(sources.POLICY_SOURCE)
    own = compiler.fingerprint(source, SIZES)
    assert compiler.fingerprint(source, dict(reversed(SIZES.items()))) == own
    assert compiler.fingerprint(source + "\n", SIZES) != own
    assert compiler.fingerprint(source, {**SIZES, "ENDPOINTS": 255}) != own
    shutil.copytree(sources.HEADERS, tmp_path / "headers")
    monkeypatch.setattr(sources, "HEADERS", tmp_path / "headers")
    assert compiler.fingerprint(source, SIZES) == own
    (tmp_path / "headers/include/linux/kconfig.h").write_text("")
    assert compiler.fingerprint(source, SIZES) != own
    monkeypatch.undo()
    monkeypatch.setattr(compiler, "_LIBRARIES", ("libbcc.so*",))
    assert compiler.fingerprint(source, SIZES) != own
