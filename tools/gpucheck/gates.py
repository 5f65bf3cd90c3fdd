"""What the figures of a run must say, whatever they are: 16 bits pay, and CUDA C++ is worth having.

Times are replays of CUDA graphs, in which the host has no part; the model of an op's arithmetic is
coarse, since it only tells what memory should limit from what it should not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Row = dict[str, Any]

# Half the bytes in at most this share of the time. The gradients of a warp add, in float32, what
# they read in 16 bits.
HALF_AS_LONG = 0.65
HALF_OF_WARPS_BOTH_WAYS = 0.75
# CUDA C++ to Triton.
AS_FAST = 1.05
# Of a copy: below, a launch and an empty last wave count for more than bytes.
LEAST_SECONDS = 5e-6
# An H200 has 67 TFLOP/s in float32 for 4.3 TB/s of a copy, 16 for each byte, of which kernels that
# convert and address as well get less than half.
MOST_OPERATIONS_PER_BYTE = 6.0
_HALVES = ("bfloat16", "float16")


@dataclass(frozen=True)
class Gate:
    """One comparison: ``measured``, a ratio of two times, is held against ``limit``."""

    gate: str
    case: str
    contestant: str
    measured: float
    limit: float
    note: str = ""
    excused: bool = False

    @property
    def passed(self) -> bool:
        return self.excused or self.measured <= self.limit


def judged(rows: Sequence[Row], copy_bytes_per_second: float | None) -> list[dict[str, Any]]:
    """All gates of a document's rows, each with ``passed``; nothing where no two times compare."""
    found = [*sixteen_bits(rows, copy_bytes_per_second), *languages(rows)]
    return [{**asdict(gate), "passed": gate.passed} for gate in found]


def milliseconds(row: Row, contestant: str) -> float | None:
    """Of a replay, else of a call; None without a figure."""
    entry = row["contestants"].get(contestant, {})
    if "failed" in entry:
        return None
    found: float | None = entry.get("graph_ms", entry.get("ms"))
    return found


def operations_per_byte(row: Row) -> float:
    """In float32, of the bytes that must move; infinite where that is not what limits an op."""
    batch, channels = row["shape"][:2]
    size = 2 if row["dtype"] in _HALVES else 4
    if row["op"] == "dense_similarity":
        return 3.0 / size  # three sums for three passes over an element
    if row["op"] == "warp_affine":
        return 8.0 / size  # four taps for an element that is read and one that is written
    if row["op"] == "mahalanobis":
        entry = 2 if _is_half(row["storage"]) else 4
        return float(2 * batch / entry)
    if row["op"] == "pairwise_distance":
        return float(batch * (3 * channels + 4) / (2 * channels * size))
    return float("inf")


def sixteen_bits(rows: Sequence[Row], copy_bytes_per_second: float | None) -> Iterator[Gate]:
    """16-bit calls against the same in float32, where memory should be the limit of both."""
    whole = {_without_dtypes(row): row for row in rows if _in_float32(row)}
    for row in rows:
        other = whole.get(_without_dtypes(row))
        if other is None or _in_float32(row) or "failed" in row or "failed" in other:
            continue
        moves = copy_bytes_per_second and other["bytes"] / copy_bytes_per_second >= LEAST_SECONDS
        if not moves or operations_per_byte(row) > MOST_OPERATIONS_PER_BYTE:
            continue
        warps = row["op"] == "warp_affine" and row["mode"] == "both"
        limit = HALF_OF_WARPS_BOTH_WAYS if warps else HALF_AS_LONG
        for name in _ours(row):
            short, long = milliseconds(row, name), milliseconds(other, name)
            if short and long:
                yield Gate("16 bits to float32", row["case"], name, round(short / long, 3), limit)


def languages(rows: Sequence[Row]) -> Iterator[Gate]:
    """CUDA C++ against Triton; where it is slower, the automatic choice must be Triton."""
    for row in rows:
        if "failed" in row:
            continue
        name = "fastalign/cuda"
        ours, theirs = milliseconds(row, name), milliseconds(row, "fastalign/triton")
        if ours and theirs:
            taken = row.get("automatic", "")
            yield Gate(
                "CUDA C++ to Triton",
                row["case"],
                name,
                round(ours / theirs, 3),
                AS_FAST,
                f"automatic: {taken}" if taken else "",
                excused=taken == "triton",
            )


def table(found: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown, those that do not pass first."""
    lines = ["| gate | case | of | measured | at most | |", "|---|---|---|---:|---:|---|"]
    for gate in sorted(found, key=lambda gate: gate["passed"]):
        verdict = "passed" if gate["passed"] else "**failed**"
        words = ", ".join(filter(None, (verdict, gate["note"])))
        lines.append(
            f"| {gate['gate']} | {gate['case']} | {gate['contestant']} | {gate['measured']:.2f} | "
            f"{gate['limit']:.2f} | {words} |"
        )
    return lines


def _ours(row: Row) -> list[str]:
    return [name for name in ("fastalign/cuda", "fastalign/triton") if name in row["contestants"]]


def _is_half(storage: str) -> bool:
    return storage.split()[-1] in _HALVES


def _in_float32(row: Row) -> bool:
    return row["dtype"] == "float32" and not _is_half(row["storage"])


def _without_dtypes(row: Row) -> tuple[Any, ...]:
    """What two calls share that differ in their dtypes; ``rank 32 float16`` keeps its rank."""
    rank = row["storage"].split()[:-1]
    return row["op"], row["work"], *row["shape"], row["layout"], *rank
