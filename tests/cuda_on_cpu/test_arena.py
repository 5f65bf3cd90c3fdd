"""Variants of kernels that the arena makes, on the simulated GPU: other constants, other plans."""

from __future__ import annotations

from cuda_on_cpu_support.builder import UNOPTIMISED, Library, library, op_sources
from cuda_on_cpu_support.kernels import Kernels
from cuda_on_cpu_support.structs import PLAN_FIELDS
from gpucheck import arena, variants
from gpucheck.variant_builds import force

from fastalign.bench.cases import Case
from fastalign.bench.modes import LOSS

TEXTS = (
    "pairwise_distance: kPairImages=4, threads=64",
    "pairwise_distance: splits=64",  # more than there are tiles of images
)


def test_variants_compute_what_the_op_is_or_say_why_not(tmp_path):
    found = {}
    for place, variant in enumerate(variants.chosen(PLAN_FIELDS, TEXTS)):
        tree = variants.altered(variant, tmp_path / str(place))
        path = library(op_sources(variant.op, tree), UNOPTIMISED, tree)
        found[variant] = Kernels({variant.op: Library(path)})
        force(found[variant], variant)
    case = Case("pairwise_distance", LOSS, (9, 3, 6, 29))
    setting = arena.Setting("cpu", found, lambda works: dict.fromkeys(works, [1.0]))
    entries = arena.measure(case, setting)["variants"]
    built, smaller, refused = (entries[variant.name] for variant in found)
    assert built["ms"] == smaller["ms"] == 1.0
    assert "the forced plan" in refused["wrong"] and "ms" not in refused
