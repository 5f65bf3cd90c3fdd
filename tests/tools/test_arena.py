"""The arena without a GPU: what variants are, how they are built, checked and shown."""

from __future__ import annotations

import ctypes
import shutil
import time
from types import SimpleNamespace

import pytest
import torch
from gpucheck import arena, report, variants
from gpucheck.variants import Variant, VariantError

from fastalign.bench.cases import Case
from fastalign.bench.modes import BOTH, LOSS
from fastalign.ops import backends, reference
from fastalign.ops.schema import OPS

FIELDS = [
    (kernel, "cuda", field)
    for kernel, fields in {
        "dense_similarity": ("lanes", "rows"),
        "pairwise_distance": ("threads", "splits"),
        "warp_affine": ("run", "chunk"),
        "warp_affine_backward": ("run",),
        "mahalanobis": ("locations",),
    }.items()
    for field in fields
]


def test_words_and_what_they_stand_for():
    text = "warp_affine: kTileX=64, warp_tiles.cuh:kTileY = 4 * 1, run=2, backward.run=1"
    found = variants.read(text, FIELDS, "why")
    assert found.constants == (
        ("", "kTileX", "64"),
        ("warp_tiles.cuh", "kTileY", "4 * 1"),
    )
    assert found.plan == (("warp_affine", "run", "2"), ("warp_affine_backward", "run", "1"))
    assert variants.read(f"warp_affine: {found.name}", FIELDS, "why") == found
    assert Variant("warp_affine").name == arena.AS_BUILT


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("warp: run=2", "expected OP: NAME=VALUE"),
        ("run=2", "expected OP: NAME=VALUE"),
        ("warp_affine: rum=2", "neither a constant .* nor a field of warp_affine.cuda: run, chunk"),
        ("warp_affine: backward.chunk=2", "a field of warp_affine_backward.cuda: run"),
        ("warp_affine: kTile", "neither a constant"),
        ("warp_affine: kTile=2; rm", "neither a constant"),
    ],
)
def test_what_there_is_not_is_named(text, words):
    with pytest.raises(VariantError, match=words):
        variants.read(text, FIELDS)


def test_every_default_variant_can_be_made_and_changes_what_it_says(tmp_path):
    found = variants.chosen(FIELDS)
    assert {variant.op for variant in found} == set(variants.DEFAULT)
    for place, variant in enumerate(found):
        tree = variants.altered(variant, tmp_path / str(place))
        if not variant.constants:
            assert tree == variants.CSRC
            continue
        changed = [
            line
            for path in sorted((tree / "cuda").iterdir())
            for line in set(path.read_text().splitlines())
            - set((variants.CSRC / "cuda" / path.name).read_text().splitlines())
        ]
        for _, name, value in variant.constants:
            assert any(f"{name} = {value}" in line for line in changed), variant.name
        assert len(changed) <= len(variant.constants)


def test_constants_that_are_not_there_or_in_several_files(tmp_path):
    with pytest.raises(VariantError, match="kNothing is no constant .* have .*kPairImages"):
        variants.altered(Variant("pairwise_distance", (("", "kNothing", "2"),)), tmp_path / "none")
    twice = Variant("mahalanobis", (("", "kBlocksPerProcessor", "2"),))
    with pytest.raises(VariantError, match="stands in mahalanobis_low_rank.cu, mahalanobis_plan"):
        variants.altered(twice, tmp_path / "twice")
    once = Variant("mahalanobis", (("mahalanobis_plan.h", "kBlocksPerProcessor", "2"),))
    assert variants.altered(once, tmp_path / "once") == tmp_path / "once"


# Checks and tables ------------------------------------------------------------------------------


def off_by(factor):
    """The reference as the kernels of a variant, its values off by a factor."""

    def kernel(op):
        def run(*given):
            found = reference.kernel(op)(*given)
            results = found if isinstance(found, tuple) else (found,)
            results = tuple(result * factor for result in results)
            return results if isinstance(found, tuple) else results[0]

        return run

    names = [f"{op}{end}" for op in variants.DEFAULT for end in ("", "_backward", "_loss")]
    return SimpleNamespace(**{name: kernel(name) for name in names if name in OPS})


def refuses(*given):
    raise RuntimeError("dense_similarity.cuda: the forced plan does not serve\nmore")


CASE = Case("dense_similarity", LOSS, (3, 8, 4, 4))
FAST, SLOW, WRONG, BROKEN, ABSENT = (
    Variant("dense_similarity", plan=(("dense_similarity", "lanes", str(n)),), reason=f"reason {n}")
    for n in range(5)
)
TIMES = {arena.AS_BUILT: 0.2, FAST.name: 0.1, SLOW.name: 0.4}


def fake_timer(works):
    for work in works.values():
        work()
    return {name: [TIMES[name], 9.0, 0.0] for name in works if name != arena.TRITON}


def setting(**more):
    kernels = {
        Variant("dense_similarity"): off_by(1),
        SLOW: off_by(1),
        FAST: off_by(1),
        WRONG: off_by(1.01),
        BROKEN: SimpleNamespace(dense_similarity_loss=refuses),
        ABSENT: "not compiled: the time was over",
        Variant("warp_affine"): off_by(1),
    }
    return arena.Setting("cpu", kernels, fake_timer, **more)


def test_each_variant_is_checked_and_timed_and_the_fastest_comes_first():
    row = arena.measure(CASE, setting(copy=1e9))
    entries = row["variants"]
    assert {name: entry.get("ms") for name, entry in entries.items()} == {
        **TIMES,
        WRONG.name: None,
        BROKEN.name: None,
        ABSENT.name: None,
    }
    assert "off by 0.01" in entries[WRONG.name]["wrong"]
    assert "does not serve" in entries[BROKEN.name]["wrong"]
    lines = arena.table([row]).splitlines()
    assert lines[0] == f"### {CASE.name}"
    share = 100 * row["bytes"] / 1e-4 / 1e9
    assert lines[4] == f"| {FAST.name} | 100.0 | 0.50 | {share:.0f} % | reason 0 |"
    assert [line.split(" | ")[0] for line in lines[4:7]] == [
        f"| {name}" for name in (FAST.name, arena.AS_BUILT, SLOW.name)
    ]
    assert f"| {ABSENT.name} | | | | **not compiled: the time was over** |" in lines
    assert arena.good([row]) and not arena.good([])
    # Nothing of the variants is left behind.
    assert not [key for key in backends._settled if "dense_similarity/" in str(key)]
    with pytest.raises(ValueError, match="backend is 'dense_similarity/"):
        CASE.ours(f"dense_similarity/{FAST.name}")(*CASE.inputs("cpu"))


def test_gradients_are_checked_as_well():
    case = Case("warp_affine", BOTH, (1, 2, 5, 6))
    kernels = {
        Variant("warp_affine"): off_by(1),
        FAST: off_by(1),
    }
    spoiled = SimpleNamespace(**vars(kernels[FAST]))
    spoiled.warp_affine_backward = vars(off_by(1.01))["warp_affine_backward"]
    wrong = Variant("warp_affine", plan=(("warp_affine", "run", "2"),))
    found = arena.measure(case, arena.Setting("cpu", kernels | {wrong: spoiled}, lambda works: {}))
    entries = found["variants"]
    assert set(entries) == {arena.AS_BUILT, wrong.name}
    assert "result 1 off" in entries[wrong.name]["wrong"]
    assert "wrong" not in entries[arena.AS_BUILT]


def test_kernels_that_are_wrong_as_built_fail_the_run():
    kernels = {Variant("dense_similarity"): off_by(1.01)}
    row = arena.measure(CASE, arena.Setting("cpu", kernels, fake_timer))
    assert not arena.good([row])


def test_time_that_is_over_is_said():
    ticks = iter([5.0])
    told = []
    cases = [CASE, Case("dense_similarity", LOSS, (2, 4, 3, 3))]
    rows = arena.run(
        cases, setting(), 4.0, lambda rows, left: told.append((len(rows), left)), ticks.__next__
    )
    assert len(rows) == 1 and told == [(1, []), (1, [cases[1].name])]


def test_cases_are_those_of_the_benchmarks():
    found = arena.arena_cases(["pairwise_distance", "mahalanobis"], "32x3x224|1x100")
    assert {case.op for case in found} == {"pairwise_distance", "mahalanobis"}
    assert not any(case.small or case.rank for case in found)


# Builds -----------------------------------------------------------------------------------------

LAUNCHERS = """#pragma once
#include <cstdint>
namespace fastalign::cuda {
using Error = const char*;
using Stream = void*;
struct TinyArgs { float* out; };
int64_t tiny_scratch(const TinyArgs& args);
Error tiny(const TinyArgs& args, Stream stream);
}
"""
TINY = """#include "launchers.h"
namespace fastalign::cuda {
constexpr int kThreads = 32;
__global__ void fill(float* out) { out[threadIdx.x] = kThreads; }
int64_t tiny_scratch(const TinyArgs&) { return kThreads; }
Error tiny(const TinyArgs& args, Stream stream) {
  fill<<<1, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(args.out);
  return nullptr;
}
}
"""


@pytest.fixture
def builds():
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc, which compiles variants")
    from gpucheck import variant_builds

    return variant_builds


def test_a_constant_makes_a_library_of_its_own(builds, tmp_path, monkeypatch):
    for folder, name, text in (("cuda", "launchers.h", LAUNCHERS), ("cuda", "tiny.cu", TINY)):
        (tmp_path / "csrc" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "csrc" / folder / name).write_text(text)
    for folder in ("common", "cpu"):
        (tmp_path / "csrc" / folder).mkdir()
    monkeypatch.setattr(variants, "CSRC", tmp_path / "csrc")
    monkeypatch.setattr(builds, "BUILD", tmp_path / "build")
    later = time.monotonic() + 60
    path = builds.library(Variant("tiny", (("", "kThreads", "64"),)), "sm_90", later)
    handle = ctypes.CDLL(str(path))
    assert handle.size_tiny() == 8 and handle.launch_tiny is not None
    handle.scratch_tiny.restype = ctypes.c_int64
    assert handle.scratch_tiny(None) == 64
    # What is there is not compiled again, and what there is no time for is said to be missing.
    over = time.monotonic() - 1
    assert builds.library(Variant("tiny", (("", "kThreads", "64"),)), "sm_90", over) == path
    with pytest.raises(VariantError, match="the time was over"):
        builds.library(Variant("tiny"), "sm_90", over)
    with pytest.raises(VariantError, match="error"):
        builds.library(Variant("tiny", (("", "kThreads", "nothing"),)), "sm_90", later)


def test_without_a_gpu_or_a_compiler_the_command_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="^error: the arena times kernels on a GPU, and torch f"):
        arena.main([])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(arena, "nvcc", lambda: None)
    with pytest.raises(SystemExit, match="^error: nvcc was not found.* set NVCC"):
        arena.main([])


def test_the_report_of_gpu_check_has_the_table(tmp_path):
    step = {"state": "passed", "text": "### a case\n\n| variant | us |"}
    document = {"environment": {}, "finished": True, "steps": {"arena": step}}
    assert "## Variants of kernels\n\n### a case" in report.markdown(document, tmp_path)
