"""The words for launch plans and what they reach; what kernels make of them is tested with each."""

from __future__ import annotations

import pytest
import torch

from fastalign import ops
from fastalign.errors import BackendError, ConfigError
from fastalign.ops import native, plans, triton_plans
from fastalign.ops.schema import SCHEMAS

TRITON = "pairwise_distance.triton"


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch):
    monkeypatch.delenv(plans.ENVIRONMENT, raising=False)
    monkeypatch.setattr(plans, "_environment_read", False)
    yield
    plans._force(())


def test_a_plan_is_forced_while_the_context_lasts_and_fields_add_up():
    assert ops.forced_plans() == {} and triton_plans.forced("pairwise_distance") == {}
    with ops.forced_plan(f" {TRITON} :warps = 4, images=2 ;; warp_affine.triton:pixels=64"):
        with ops.forced_plan(f"{TRITON}: warps=8"):
            assert triton_plans.forced("pairwise_distance") == {"images": 2, "warps": 8}
            assert triton_plans.forced("warp_affine") == {"pixels": 64}
        assert ops.forced_plans() == {
            TRITON: {"images": "2", "warps": "4"},
            "warp_affine.triton": {"pixels": "64"},
        }
        with pytest.raises(KeyError), ops.forced_plan(f"{TRITON}: warps=1"):
            raise KeyError
        assert triton_plans.forced("pairwise_distance")["warps"] == 4
    assert ops.forced_plans() == {} and triton_plans.forced("pairwise_distance") == {}


def test_plans_are_swept_and_read_back():
    found = plans.sweep(f"{TRITON}: warps=1|2|2, images=4; warp_affine.triton: warps")
    warps = ops.plan_fields()["warp_affine.triton"]["warps"]
    assert len(set(found)) == len(found) == 2 * len(warps)
    for plan in found:
        assert plans.read_plan(plans.describe(plan)) == plan


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no plan", "KERNEL: FIELD=VALUE"]),
        ("warps=4", ["'warps=4'", "KERNEL: FIELD=VALUE"]),
        (f"{TRITON}:", ["KERNEL: FIELD=VALUE"]),
        ("pairwise.triton: warps=4", ["'pairwise.triton'", "one of", TRITON]),
        ("warp_affine.cpp: width=4", ["'warp_affine.cpp'", "one of"]),
        (f"{TRITON}: warp=4", ["no field 'warp'", "locations, images, warps"]),
        (f"{TRITON}: warps=3", ["warps='3'", "1, 2, 4, 8, 16"]),
        (f"{TRITON}: warps=", ["warps=''", "1, 2, 4, 8, 16"]),
        (f"{TRITON}: warps=4, warps=8", ["warps is there twice"]),
        (f"{TRITON}: warps=4|8", ["2 plans"]),
        (f"{TRITON}: warps", ["5 plans"]),
    ],
)
def test_what_there_is_not_is_refused_by_name(text, words, monkeypatch):
    with pytest.raises(ConfigError) as caught, ops.forced_plan(text):
        pass
    for word in (*words, "forced_plan"):
        assert word in str(caught.value)
    assert ops.forced_plans() == {}
    if text:
        monkeypatch.setenv(plans.ENVIRONMENT, text)
        plans._environment_read = False
        for _ in range(2):
            with pytest.raises(ConfigError, match=plans.ENVIRONMENT):
                ops.forced_plans()


def test_the_environment_is_read_by_the_first_call_and_contexts_are_inside_it(monkeypatch):
    monkeypatch.setenv(plans.ENVIRONMENT, f"{TRITON}: warps=4, images=2")
    monkeypatch.setattr(ops.backends, "_settled", {})
    ops.dense_similarity(*torch.ones(2, 2, 3, 1, 1), backend="reference")
    assert triton_plans.forced("pairwise_distance") == {"images": 2, "warps": 4}
    with ops.forced_plan(f"{TRITON}: warps=8"):
        assert triton_plans.forced("pairwise_distance") == {"images": 2, "warps": 8}
    assert triton_plans.forced("pairwise_distance") == {"images": 2, "warps": 4}


def test_a_plan_of_the_environment_that_there_is_not_stops_the_first_call(monkeypatch):
    monkeypatch.setenv(plans.ENVIRONMENT, f"{TRITON}: warps=5")
    monkeypatch.setattr(ops.backends, "_settled", {})
    with pytest.raises(ConfigError, match=f"{plans.ENVIRONMENT}.*warps='5'"):
        ops.dense_similarity(*torch.ones(2, 2, 3, 1, 1))


def test_without_the_native_library_its_kernels_say_why(monkeypatch):
    monkeypatch.setattr(native, "load", lambda: "the native library was not built")
    plans.plan_fields.cache_clear()
    try:
        assert set(plans.plan_fields()) == {f"{op}.triton" for op in triton_plans.FIELDS}
        with pytest.raises(ConfigError, match=r"warp_affine\.cpu.*was not built"):
            plans.read_plan("warp_affine.cpu: rows=4")
    finally:
        plans.plan_fields.cache_clear()


def test_kernels_are_named_by_op_and_backend():
    fitting = {"moments", "whitener"}  # of a Gaussian; no ops of their own
    for kernel in ops.plan_fields():
        op, _, backend = kernel.rpartition(".")
        assert backend in ops.BACKENDS and (op in SCHEMAS or op in fitting)


def test_a_value_that_cannot_serve_is_refused_with_the_reason():
    with ops.forced_plan(f"{TRITON}: images=4"):
        with pytest.raises(BackendError, match=r"images=4 does not serve: 5 channels"):
            triton_plans.refuse("pairwise_distance", "images", "5 channels take one image")
