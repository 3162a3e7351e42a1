"""What headers say was cut: adding them up, and their bounds."""

from __future__ import annotations

from enrich.wire.cuts import MAX_PARTS, Cut, CutPart, parts_of, sum_of


def test_two_headers_add_up_and_the_later_total_counts() -> None:
    before = [Cut("limit", "allowed", 3, 3, 1000, [CutPart("a", "allow", 2)]), Cut("logging", "denied", 1, 1)]
    after = [Cut("limit", "allowed", 4, 7, 500, [CutPart("a", "allow", 1), CutPart("b", "allow", 3)])]
    assert sum_of(before, after) == [
        Cut("limit", "allowed", 7, 7, 1500, [CutPart("a", "allow", 3), CutPart("b", "allow", 3)]),
        Cut("logging", "denied", 1, 1),
    ]
    assert sum_of(before, []) == before


def test_the_largest_parts_are_named_and_the_others_are_together() -> None:
    counts = [(f"n{number}", "deny", number) for number in range(1, MAX_PARTS + 11)] + [("", "deny", 5)]
    parts = parts_of(counts)
    assert len(parts) == MAX_PARTS + 1
    assert parts[0] == CutPart(f"n{MAX_PARTS + 10}", "deny", MAX_PARTS + 10)
    assert parts[-1] == CutPart("", "deny", sum(range(1, 11)) + 5)
    assert sum(part.verdicts for part in parts) == sum(count for _, _, count in counts)
