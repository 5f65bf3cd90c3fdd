"""The kernels with asynchronous copies that land late, as late/late_copies.h has them."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from cuda_on_cpu_support.builder import (
    BUILD,
    CSRC,
    HERE,
    UNOPTIMISED,
    Library,
    library,
    op_sources,
)
from cuda_on_cpu_support.kernels import Kernels

HEADER = HERE / "late" / "late_copies.h"
# By file of csrc/cuda what stands for copies on the host, and what takes its place.
_REQUESTS = {
    "copy_async.cuh": (
        "store_vec(to->lane, load_vec<N, Cache::readonly>(from));",
        "late::request(to, from, sizeof(*to));",
    ),
    "mahalanobis_tile.cuh": (
        "store_vec(to, load_vec<kVec<T>, Cache::once>(from));",
        "late::request(to, from, 16);",
    ),
    "warp_patch.cuh": (
        "store_vec(to, load_where<4>(exists, from));",
        "late::request(to, exists ? from : nullptr, 16);",
    ),
}
_GROUPS = {
    "copy_async.cuh": (
        ("void commit_copies() {", "late::commit();"),
        ("void wait_for_copies() {", "late::wait(pending);"),
    ),
    "mahalanobis_tile.cuh": (
        ("void end_of_copies() {", "late::commit();"),
        ("void wait_for_copies() {", "late::wait(all ? 0 : 1);"),
    ),
}


def sources_of_copies() -> set[str]:
    """The files of csrc/cuda that have an instruction which copies."""
    instruction = re.compile(r"cp\.async\.c[ag]\.")
    return {p.name for p in (CSRC / "cuda").glob("*.cu*") if instruction.search(p.read_text())}


def late() -> set[str]:
    """Those whose copies land late."""
    return set(_REQUESTS)


def _changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"the kernels have changed: {old!r} stands there not once"
    return text.replace(old, new)


def build(op: str, old: str = "", new: str = "") -> Kernels:
    """The kernels of an op with late copies, and with ``old`` replaced in all of its headers."""
    copy = BUILD / "late" / f"{op}.{os.getpid()}" / "csrc"
    shutil.rmtree(copy.parent, ignore_errors=True)
    for folder in ("common", "cuda"):
        shutil.copytree(CSRC / folder, copy / folder)
    (copy / "cpu").mkdir()
    for header in ("kernels.h", "view.h"):
        shutil.copy(CSRC / "cpu" / header, copy / "cpu")
    shutil.copy(HEADER, copy / "cuda")
    for name, request in _REQUESTS.items():
        path = copy / "cuda" / name
        text = _changed(path.read_text(), *request)
        for start, more in _GROUPS.get(name, ()):
            text = _changed(text, start, f"{start}\n  {more}")
        path.write_text(
            _changed(text, "#pragma once\n", '#pragma once\n#include "late_copies.h"\n')
        )
    if old:
        _replace_everywhere(copy / "cuda", old, new)
    try:
        return Kernels({op: Library(library(op_sources(op, copy), UNOPTIMISED, copy))})
    finally:
        shutil.rmtree(copy.parent)


def _replace_everywhere(folder: Path, old: str, new: str) -> None:
    texts = {path: path.read_text() for path in folder.glob("*.cuh")}
    assert any(old in text for text in texts.values()), f"no header has {old!r}"
    for path, text in texts.items():
        path.write_text(text.replace(old, new))
