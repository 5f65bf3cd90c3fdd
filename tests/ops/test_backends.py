"""Which backend runs an op: argument, environment, automatic choice, and the reasons against one.

Most tests put stand-ins in place of the native library and of the Triton kernels, so that they say
the same on a machine with a GPU and without one.
"""

from __future__ import annotations

import sys
import types
import warnings

import pytest
import torch

from fastalign import ops
from fastalign.errors import BackendError
from fastalign.ops import backends, native, triton_kernels
from fastalign.ops.schema import SCHEMAS, STEMS, stem_of

H = torch.arange(24.0).view(2, 3, 2, 2)


@pytest.fixture(autouse=True)
def unsettled(monkeypatch):
    """No choice is remembered from before, and none outlasts the test."""
    monkeypatch.setattr(backends, "_settled", {})


@pytest.fixture
def without_native(monkeypatch):
    monkeypatch.setattr(native, "cannot_run", lambda op, tensor: "the native library is away")
    monkeypatch.setattr(native, "broken", lambda: None)


@pytest.fixture
def with_native(monkeypatch):
    """A native library whose kernels mark their results; returns the list of ops it was asked."""
    asked: list[str] = []

    def kernel(op):
        def run(h, *rest):
            asked.append(op)
            return torch.full((h.shape[0], *h.shape[2:]), -5.0)

        return run

    monkeypatch.setattr(native, "cannot_run", lambda op, tensor: None)
    monkeypatch.setattr(native, "broken", lambda: None)
    monkeypatch.setattr(native, "kernel", kernel)
    return asked


@pytest.fixture
def with_triton(monkeypatch):
    """Triton kernels of pairwise_distance that serve up to four images; on CPU tensors."""
    pytest.importorskip("triton")
    module = types.ModuleType("fastalign.kernels.pairwise_distance")

    def pairwise_distance(h, mask, groups, squared):
        return torch.full((h.shape[0], *h.shape[2:]), -7.0)

    module.pairwise_distance = pairwise_distance
    module.can_run = lambda op, h, *rest: "more than four images" if len(h) > 4 else None
    package = types.ModuleType("fastalign.kernels")
    package.__path__ = []
    module.__spec__ = importlib_spec(module.__name__)
    monkeypatch.setitem(sys.modules, "fastalign.kernels", package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    # The real kernels of the other ops are out of sight, however the package is installed.
    real = triton_kernels.importlib.util.find_spec
    monkeypatch.setattr(
        triton_kernels.importlib.util,
        "find_spec",
        lambda name: (
            None
            if name.startswith("fastalign.kernels.") and name != module.__name__
            else real(name)
        ),
    )
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    triton_kernels._module.cache_clear()
    yield
    triton_kernels._module.cache_clear()


def importlib_spec(name):
    from importlib.machinery import ModuleSpec

    return ModuleSpec(name, None)


@pytest.mark.parametrize("op", SCHEMAS)
def test_every_backend_is_listed_with_its_reason(op):
    found = ops.available_backends(op, H)
    assert tuple(found) == ops.BACKENDS == ("reference", "cpu", "cuda", "triton")
    assert found["reference"] is None
    assert found["cuda"] == "cuda kernels need tensors on a cuda device, given cpu"
    assert all(reason is None or len(reason) > 10 for reason in found.values())


def test_the_device_of_the_tensor_decides(with_native, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    found = ops.available_backends("mahalanobis", H.to("meta"))
    assert found["cpu"] == "cpu kernels need tensors on a cpu device, given meta"
    assert found["cuda"] == "cuda kernels need tensors on a cuda device, given meta"
    assert found["triton"] == "Triton kernels need CUDA tensors, given meta"
    assert ops.available_backends("mahalanobis", H)["cpu"] is None


def test_asking_for_nothing_that_exists():
    with pytest.raises(ValueError, match="there is no op 'pairwise'; expected one of .*mahalanob"):
        ops.available_backends("pairwise", H)
    with pytest.raises(ValueError, match="needs a tensor"):
        ops.available_backends("mahalanobis")
    with pytest.raises(
        ValueError,
        match="pairwise_distance: backend is 'gpu', expected one of auto, reference, cpu, cuda",
    ):
        ops.pairwise_distance(H, backend="gpu")


def test_a_forced_backend_that_cannot_run_says_why(without_native, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    reasons = {
        "cpu": "the native library is away",
        "cuda": "cuda kernels need tensors on a cuda device, given cpu",
        "triton": "Triton kernels need CUDA tensors, given cpu",
    }
    for name, reason in reasons.items():
        with pytest.raises(BackendError) as caught:
            ops.pairwise_distance(H, backend=name)
        assert str(caught.value) == (
            f"pairwise_distance: backend asks for {name!r}, which cannot run: {reason}. "
            "Here reference can."
        )
        assert caught.value.exit_code == 5


def test_every_public_function_can_be_forced(without_native):
    theta, mean = ops.affine.identity(2), torch.zeros(3, 2, 2)
    calls = (
        lambda **options: ops.dense_similarity(H, H, **options),
        lambda **options: ops.dense_similarity_loss(H, H, **options),
        lambda **options: ops.pairwise_distance(H, **options),
        lambda **options: ops.pairwise_distance_loss(H, **options),
        lambda **options: ops.warp_affine(H, theta, **options),
        lambda **options: ops.mahalanobis(H, mean, torch.zeros(4, 6), **options),
    )
    for call in calls:
        call(backend="reference")
        with pytest.raises(BackendError, match="the native library is away"):
            call(backend="cpu")


def test_the_environment_chooses_where_the_argument_does_not(with_native, monkeypatch):
    monkeypatch.setenv("FASTALIGN_BACKEND", "reference")
    assert (ops.pairwise_distance(H) > 0).all() and with_native == []
    assert (ops.pairwise_distance(H, backend="auto") > 0).all()
    assert (ops.pairwise_distance(H, backend="cpu") == -5).all(), "the argument comes first"
    monkeypatch.setenv("FASTALIGN_BACKEND", "cpu")
    assert (ops.pairwise_distance(H) == -5).all(), "the environment is read at every call"
    monkeypatch.setenv("FASTALIGN_BACKEND", "")
    assert (ops.pairwise_distance(H) == -5).all(), "empty is as good as not set"


def test_a_wrong_environment_is_named_as_the_source(without_native, monkeypatch):
    monkeypatch.setenv("FASTALIGN_BACKEND", "cuda")
    with pytest.raises(BackendError, match="FASTALIGN_BACKEND asks for 'cuda', which cannot run"):
        ops.pairwise_distance(H)
    monkeypatch.setenv("FASTALIGN_BACKEND", "gpu")
    with pytest.raises(ValueError, match="FASTALIGN_BACKEND is 'gpu', expected one of auto"):
        ops.pairwise_distance(H)


def test_the_automatic_choice_takes_native_kernels_first(with_native):
    assert (ops.pairwise_distance(H) == -5).all()
    assert with_native == ["pairwise_distance"]


def test_the_automatic_choice_falls_back_to_the_reference(without_native):
    assert torch.equal(ops.pairwise_distance(H), ops.pairwise_distance(H, backend="reference"))


def test_a_gradient_is_a_choice_of_its_own(with_native, monkeypatch):
    """A backend may serve an op and not yet its gradient."""
    monkeypatch.setattr(
        native, "cannot_run", lambda op, tensor: "no gradient" if "backward" in op else None
    )
    h = H.clone().requires_grad_()
    ops.pairwise_distance(h).sum().backward()
    assert with_native == ["pairwise_distance"] and h.grad.abs().max() > 0
    with pytest.raises(BackendError, match="pairwise_distance_backward: .*no gradient"):
        ops.pairwise_distance(h, backend="cpu").sum().backward()


def test_a_library_that_cannot_be_loaded_is_not_passed_over_in_silence(without_native, monkeypatch):
    monkeypatch.setattr(native, "broken", lambda: "the library is broken")
    with pytest.warns(UserWarning, match="the library is broken; slower code takes its place"):
        ops.pairwise_distance(H)
    with warnings.catch_warnings():  # once is enough
        warnings.simplefilter("error")
        ops.pairwise_distance(H)


def test_a_damaged_library_gives_both_causes(tmp_path, monkeypatch):
    damaged = tmp_path / "_C.abi3.so"
    damaged.write_bytes(b"this is no library")
    monkeypatch.setattr(native, "LIBRARY", damaged)
    native.load.cache_clear()
    native._cannot_run.cache_clear()
    try:
        reason = native.cannot_run("mahalanobis", H)
        assert native.broken() == reason
        assert f"cannot be loaded with torch {torch.__version__}" in reason
        assert "_C.abi3.so" in reason and "reinstall fastalign" in reason
        damaged.unlink()
        native.load.cache_clear()
        native._cannot_run.cache_clear()
        assert "was not built" in native.cannot_run("mahalanobis", H)
        assert native.broken() is None, "a library that was never built is no cause for a warning"
    finally:
        native.load.cache_clear()
        native._cannot_run.cache_clear()


def test_triton_kernels_run_where_they_can(with_triton, without_native):
    assert ops.available_backends("pairwise_distance", H)["triton"] is None
    assert (ops.pairwise_distance(H, backend="triton") == -7).all()
    reason = ops.available_backends("pairwise_distance_backward", H)["triton"]
    assert reason == "there is no Triton kernel for pairwise_distance_backward"
    reason = ops.available_backends("warp_affine", H)["triton"]
    assert reason == "there is no Triton kernel for warp_affine"


def test_limits_of_a_kernel_are_asked_for_every_tensor(with_triton, without_native):
    """A choice for one shape is not remembered for another."""
    large = torch.zeros(5, 3, 2, 2)
    for _ in range(2):
        assert (ops.pairwise_distance(H, backend="triton") == -7).all()
        with pytest.raises(BackendError, match="cannot run: more than four images"):
            ops.pairwise_distance(large, backend="triton")


def test_triton_is_no_automatic_choice_for_cpu_tensors(with_triton, without_native):
    """There it only interprets: a check, and slow."""
    assert (ops.pairwise_distance(H) > 0).all()


def test_without_triton(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(triton_kernels.importlib.util, "find_spec", lambda name: None)
    triton_kernels._module.cache_clear()
    try:
        reason = ops.available_backends("mahalanobis", H)["triton"]
    finally:
        triton_kernels._module.cache_clear()
    assert reason == "Triton is not installed; pip install triton"


def test_stems():
    assert {stem_of(op) for op in SCHEMAS} == set(STEMS)
    assert stem_of("dense_similarity_loss") == stem_of("dense_similarity_backward")


@pytest.mark.parametrize(
    ("targets", "capability", "runs"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 9), True),
        ("sm_80", (9, 0), False),
        ("sm_80 compute_80", (12, 0), True),
        ("sm_90a", (9, 0), True),
        ("sm_90a compute_90a", (10, 0), False),
        ("sm_100 compute_120", (10, 3), True),
        ("sm_120", (7, 5), False),
    ],
)
def test_code_for_another_gpu_is_no_code(targets, capability, runs, monkeypatch):
    library = types.SimpleNamespace(cuda_targets=lambda: targets)
    monkeypatch.setitem(sys.modules, "fastalign._C", library)
    monkeypatch.setattr("fastalign._C", library, raising=False)
    reason = native._not_built_for(capability)
    assert (reason is None) == runs
    if not runs:
        assert f"TORCH_CUDA_ARCH_LIST={capability[0]}.{capability[1]}" in reason
