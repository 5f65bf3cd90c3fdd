"""Variants of the CUDA kernels: other numbers for their constants, other launch plans.

A constant is any ``constexpr`` number that the sources of an op name, for example ``kPairImages``;
it is replaced in a copy of the tree, so that nothing in the kernels is there for the arena's sake.
What can be forced at run time (docs/kernels.md) needs no build of its own.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from records.inputs import included

from gpucheck import inplace

CSRC = inplace.ROOT / "csrc"
AS_BUILT = "as built"
_FOLDERS = ("common", "cpu", "cuda")


class VariantError(Exception):
    """A variant that there cannot be; the message says what there is."""


@dataclass(frozen=True)
class Variant:
    """One contestant.

    Attributes:
        op: its stem.
        constants: file (empty: whichever has it), name and value.
        plan: kernel (``<op>`` or ``<op>_backward``), field and value.
        reason: why it is tried.
    """

    op: str
    constants: tuple[tuple[str, str, str], ...] = ()
    plan: tuple[tuple[str, str, str], ...] = ()
    reason: str = ""

    @property
    def name(self) -> str:
        words = [
            f"{file}:{name}={value}" if file else f"{name}={value}"
            for file, name, value in self.constants
        ]
        for kernel, field, value in self.plan:
            words.append(f"{'' if kernel == self.op else 'backward.'}{field}={value}")
        return ", ".join(words) or AS_BUILT


# What is worth a few minutes of a GPU: an op's variants, each with the reason to try it.
DEFAULT: dict[str, tuple[tuple[str, str], ...]] = {
    "dense_similarity": (
        ("lanes=1", "tiles of 128 locations of a plane: runs of 512 bytes in float32"),
        ("lanes=2", "64 locations: 256 bytes, and 128 in 16 bits"),
        ("lanes=4", "32 locations: 128 bytes, whole lines"),
        ("lanes=8", "16 locations: blocks enough for small maps"),
        ("lanes=4, rows=plain", "nothing kept: the second sweep from L2, more blocks at once"),
        ("lanes=4, rows=held", "z kept, p read twice"),
    ),
    "warp_affine": (
        ("kPatches=0", "taps one by one, without patches in shared memory"),
        ("run=1, backward.run=1", "more blocks, each with its own map"),
        ("run=4, backward.run=4", "fewer blocks, longer runs of tiles"),
        ("kTasksPerProcessor=24", "smaller tasks: the last wave is fuller"),
        ("kTasksPerProcessor=6", "larger ones: less to prepare"),
        ("kPatchFloats=1792", "28 KiB for four channels: more blocks where registers allow"),
        (
            "kPatchTileY=32, kPatchFloats=2560, kPatchBlocks=3, kBackwardPatchBlocks=2",
            "square tiles: boxes of 1.75 times their pixels in place of two",
        ),
    ),
    "pairwise_distance": (
        ("threads=32", "smaller blocks: the last wave is fuller"),
        ("threads=64", "the same"),
        ("kPairImages=4", "half the registers of a thread, twice the warps"),
        ("kPairImages=4, threads=64", "both"),
        ("splits=2", "blocks that share the images of a tile"),
    ),
    "mahalanobis": (
        ("locations=1", "a block for each location: no tail of a block's last"),
        ("locations=4", "fewer blocks, each deviation read once for four"),
        ("kGaussianBlocks=6", "more blocks of a multiprocessor, fewer registers"),
        ("kGaussianBlocks=4", "more registers"),
        (
            "kWholeFactor=1024, mahalanobis_plan.h:kStage=12 * 1024",
            "short stages: copies under way all the time",
        ),
        ("kWholeFactor=1024", "parts of a factor in place of whole ones"),
    ),
}


def read(text: str, fields: Iterable[tuple[str, str, str]], reason: str = "") -> Variant:
    """``OP: NAME=VALUE, ...``: constants, ``FILE:NAME`` where several files have one of the name,
    and fields of a plan, ``backward.FIELD`` of the gradient's.

    Args:
        text: the words.
        fields: kernel, backend and field of everything that can be forced.

    Raises:
        VariantError: no such op or field, or no value.
    """
    op, colon, entries = (part.strip() for part in text.partition(": "))
    if not colon or op not in DEFAULT:
        raise VariantError(f"{text!r}: expected OP: NAME=VALUE, ..., with one of {_words(DEFAULT)}")
    constants, plan = [], []
    for entry in filter(None, (part.strip() for part in entries.split(","))):
        found = re.fullmatch(r"(?:([\w.]+):)?(k[A-Z]\w*)\s*=\s*([\w */+-]+)", entry)
        if found is not None:
            constants.append((found[1] or "", found[2], found[3].strip()))
            continue
        found = re.fullmatch(r"(backward\.)?(\w+)\s*=\s*(\w+)", entry)
        kernel = f"{op}_backward" if found is not None and found[1] else op
        known = [field for of, backend, field in fields if (of, backend) == (kernel, "cuda")]
        if found is None or found[2] not in known:
            raise VariantError(
                f"{text!r}: {entry!r} is neither a constant (kName=NUMBER) nor a field of "
                f"{kernel}.cuda: {_words(known)}"
            )
        plan.append((kernel, found[2], found[3]))
    return Variant(op, tuple(constants), tuple(plan), reason)


def chosen(fields: Iterable[tuple[str, str, str]], texts: Iterable[str] = ()) -> list[Variant]:
    """Each op as built, and what is tried of it: ``texts``, or the default."""
    fields = list(fields)
    found = [read(text, fields) for text in texts] or [
        read(f"{op}: {text}", fields, reason)
        for op, entries in DEFAULT.items()
        for text, reason in entries
    ]
    ops = dict.fromkeys(variant.op for variant in found)
    return [one for op in ops for one in (Variant(op), *(v for v in found if v.op == op))]


def sources(op: str, csrc: Path = CSRC) -> list[Path]:
    """The launchers of an op."""
    return sorted((csrc / "cuda").glob(f"{op}*.cu"))


def altered(variant: Variant, folder: Path) -> Path:
    """The tree that a variant is compiled from; the checkout's own without constants.

    Raises:
        VariantError: a constant that the op's sources do not have, or have in several files.
    """
    if not variant.constants:
        return CSRC
    for name in _FOLDERS:
        shutil.copytree(CSRC / name, folder / name, dirs_exist_ok=True)
    seen = sorted(included(sources(variant.op, folder)))
    for file, name, value in variant.constants:
        pattern = re.compile(rf"^((?:inline )?constexpr [^;{{}}]*?\b{name} = )([^,;]+)", re.M)
        places = [
            path
            for path in seen
            if file in ("", path.name) and pattern.search(path.read_text(encoding="utf-8"))
        ]
        if len(places) != 1:
            there = _words(path.name for path in places) if places else _words(_constants(seen))
            words = "stands in" if places else "is no constant of its sources, which have"
            raise VariantError(f"{variant.op}: {name} {words} {there}")
        text = places[0].read_text(encoding="utf-8")
        places[0].write_text(pattern.sub(rf"\g<1>{value}", text), encoding="utf-8")
    return folder


def _constants(files: Iterable[Path]) -> list[str]:
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    lines = re.findall(r"^(?:inline )?constexpr [^;{}]*;", text, re.M)
    return sorted({name for line in lines for name in re.findall(r"\b(k[A-Z]\w*) = ", line)})


def _words(names: Iterable[str]) -> str:
    return ", ".join(names)
