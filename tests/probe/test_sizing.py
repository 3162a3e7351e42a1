"""Sizes of maps that follow from the node: by its pods, bounded by its memory, and the same at each start."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe.settings import Settings
from probe.sizing import chosen, memory_for_maps, memory_of

AUTO = Settings().sizes()
PLENTY = 1 << 40
NAMES = ("ENDPOINTS", "CONNECTIONS", "DENIED_FLOWS", "FRAGMENTS")


def by_pods(pods: int | None, memory: int = PLENTY, **in_force: int) -> dict[str, int]:
    return chosen(AUTO, pods, memory, [in_force] if in_force else [])


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        (8, (128, 131_072, 16_384, 16_384)),
        (110, (128, 131_072, 16_384, 16_384)),
        (250, (256, 262_144, 16_384, 16_384)),
        (500, (512, 524_288, 32_768, 16_384)),
        (1000, (1024, 524_288, 65_536, 16_384)),
        (1_000_000, (4096, 524_288, 262_144, 65_536)),
        (-1, (128, 131_072, 16_384, 16_384)),
        (None, (256, 262_144, 16_384, 16_384)),
    ],
)
def test_sizes_follow_the_number_of_pods(pods: int | None, expected: tuple[int, ...]) -> None:
    assert tuple(by_pods(pods)[name] for name in NAMES) == expected


@pytest.mark.parametrize("memory_mib", [64, 96, 128, 256, 512])
@pytest.mark.parametrize("pods", [110, 250])
def test_the_maps_take_no_more_than_their_part_of_the_memory(pods: int, memory_mib: int) -> None:
    sizes = by_pods(pods, memory_mib << 20)
    assert memory_of(sizes) <= memory_mib << 20
    assert sizes["ENDPOINTS"] >= pods
    assert all(sizes[name] >= 4 * sizes["ENDPOINTS"] for name in NAMES[1:])


def test_the_smallest_sizes_leave_each_pod_a_reserve() -> None:
    sizes = by_pods(250, 1)
    assert all(sizes[name] == 8 * sizes["ENDPOINTS"] for name in NAMES[1:])
    assert sizes["RING_BYTES"] == 1 << 20


def test_a_setting_wins_and_the_others_follow_it() -> None:
    sizes = chosen({**AUTO, "CONNECTIONS": 1000, "RING_BYTES": 4096}, 110, PLENTY, [by_pods(110)])
    assert (sizes["CONNECTIONS"], sizes["RING_BYTES"]) == (1000, 4096)
    assert 4 * sizes["ENDPOINTS"] <= 1000, "each pod has a reserve of what the setting allows"
    sizes = chosen({**AUTO, "ENDPOINTS": 100}, 500, PLENTY, ())
    assert tuple(sizes[name] for name in NAMES) == (100, 131_072, 16_384, 16_384)


@pytest.mark.parametrize("pods", [100, 110, 127, 128])
def test_a_few_pods_more_or_less_change_nothing(pods: int) -> None:
    assert by_pods(pods, **by_pods(110)) == by_pods(110)


def test_sizes_grow_by_themselves_and_do_not_swing_back() -> None:
    grown = by_pods(250, **by_pods(110))
    assert grown == by_pods(250)
    assert by_pods(110, **grown) == grown
    assert by_pods(110, **by_pods(1000))["ENDPOINTS"] == 128


def test_memory_that_differs_a_little_at_each_start_changes_nothing() -> None:
    """Just below the bound of a size, then just above, then below."""
    bound = memory_of(by_pods(250))
    small = by_pods(250, bound - 4096)
    large = by_pods(250, bound, **small)
    assert large["CONNECTIONS"] == 2 * small["CONNECTIONS"]
    assert by_pods(250, bound - 4096, **large) == large


@pytest.mark.parametrize("pods", [None, 110, 500])
@pytest.mark.parametrize("fixed", [{"CONNECTIONS": 1024}, {"DENIED_FLOWS": 1024}, {"FRAGMENTS": 1024}])
def test_a_lowered_setting_leaves_each_pod_a_reserve_with_any_sizes_in_force(
    pods: int | None, fixed: dict[str, int]
) -> None:
    sizes = chosen({**AUTO, **fixed}, pods, PLENTY, [by_pods(500)])
    assert all(sizes[name] >= 4 * sizes["ENDPOINTS"] for name in NAMES[1:])
    assert chosen({**AUTO, **fixed}, pods, PLENTY, [by_pods(500), sizes]) == sizes


def test_another_generation_that_has_to_be_made_keeps_no_size_that_the_memory_does_not_allow() -> None:
    bound = memory_of(by_pods(250))
    fixed = {"POLICY_ENTRIES": 300_000}
    sizes = chosen({**AUTO, **fixed}, 250, bound // 2, [by_pods(250, bound)])
    assert memory_of(sizes) <= bound // 2


def test_sizes_of_two_generations_never_make_a_third() -> None:
    """A probe was killed while it took over: both are found."""
    many, few = by_pods(250, 96 << 20), by_pods(110)
    assert many["ENDPOINTS"] > few["ENDPOINTS"]
    assert many["CONNECTIONS"] < few["CONNECTIONS"]
    for pods, memory in ((250, 96 << 20), (110, PLENTY), (None, PLENTY)):
        assert chosen(AUTO, pods, memory, [many, few]) in (many, few)


@pytest.mark.parametrize(("interfaces", "expected"), [(0, 128), (128, 256), (700, 1024)])
def test_a_node_that_says_fewer_pods_closes_none_that_it_has(interfaces: int, expected: int) -> None:
    assert chosen(AUTO, 8, PLENTY, [by_pods(4000)], interfaces)["ENDPOINTS"] == expected


@pytest.mark.parametrize("pods", [110, 500])
def test_an_api_server_that_is_away_changes_nothing(pods: int) -> None:
    assert by_pods(None, **by_pods(pods)) == by_pods(pods)


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", 8 << 30 >> 5), ("1073741824", 8 << 30 >> 5), ("134217728", 64 << 20)]
)
def test_the_containers_limit_counts_as_well_as_the_nodes_memory(tmp_path: Path, limit: str, expected: int) -> None:
    (tmp_path / "meminfo").write_text(f"MemFree: 1 kB\nMemTotal:        {8 << 20} kB\n")
    (tmp_path / "max").write_text(limit + "\n")
    (tmp_path / "hidden").mkdir()
    limits = (tmp_path / "hidden", tmp_path / "max", tmp_path / "none")
    assert memory_for_maps(tmp_path / "meminfo", limits) == expected
