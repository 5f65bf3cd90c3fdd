"""The harness itself: right answers under every schedule, and every error provoked once."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch
from cuda_on_cpu_support.builder import HERE, IN_ORDER, RANDOM, REVERSE, SCHEDULES, Library, library

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)

Run = Callable[..., torch.Tensor]


@pytest.fixture(scope="module")
def harness() -> Library:
    return Library(library([HERE / "harness_kernels.cu"]))


@pytest.fixture
def run(harness: Library) -> Run:
    """Launch one kernel of harness_kernels.cu on ramps and give what it wrote, or raise."""

    def launch(name, grid=1, block=64, shared=0, number=0, size=512, start=None, inputs=None):
        function = getattr(harness.handle, f"run_{name}")
        function.argtypes = [ctypes.c_int64] * 3 + [ctypes.c_void_p] * 2 + [ctypes.c_int64]
        function.restype = ctypes.c_char_p
        inputs = torch.arange(size, dtype=torch.float32) if inputs is None else inputs
        out = torch.full((size,), float("nan")) if start is None else start.clone()
        error = function(grid, block, shared, inputs.data_ptr(), out.data_ptr(), number)
        if error is not None:
            raise RuntimeError(error.decode())
        return out

    harness.schedule(IN_ORDER)
    harness.counts()
    return launch


@every_schedule
@pytest.mark.parametrize("threads", [32, 96, 1024])
def test_a_block_reduction_is_right_under_every_schedule(schedule, threads, harness, run):
    harness.schedule(schedule)
    inputs = torch.arange(2000, dtype=torch.float32)
    blocks = -(-2000 // threads)
    out = run("sum_blocks", blocks, threads, threads // 32 * 4, 2000, 2000, inputs=inputs)
    wanted = torch.stack([part.sum() for part in inputs.split(threads)])
    assert torch.equal(out[:blocks], wanted) and out[blocks:].isnan().all()
    counts = harness.counts()
    assert (counts.launches, counts.blocks) == (1, blocks)
    assert counts.barriers == blocks * threads and counts.warp_operations == 11 * blocks * threads


@every_schedule
def test_warp_operations(schedule, harness, run):
    harness.schedule(schedule)
    assert (run("warp_operations", inputs=torch.randperm(64).float())[:64] == 0).all()


@every_schedule
def test_atomics_add_and_are_counted(schedule, harness, run):
    harness.schedule(schedule)
    assert run("add_up", 1, 256, start=torch.zeros(512))[0] == 255 * 256 / 2
    counts = harness.counts()
    assert (counts.atomics, counts.float_atomics) == (257, 256)


def _unwritten(out: torch.Tensor) -> torch.Tensor:
    """Where a ramp without 0 was read before it was there: NaN, or 0 under every second seed."""
    return out.isnan() | (out == 0)


@pytest.mark.parametrize(
    ("kernel", "threads"), [("turn_round", 96), ("turn_round", 1024), ("turn_warp", 32)]
)
def test_a_missing_barrier_is_seen(kernel, threads, harness, run):
    """In order it can hide only from the threads that come last."""
    wanted = torch.arange(1024.0)[:threads].flip(0)
    for schedule in SCHEDULES:
        harness.schedule(schedule)
        right = run(f"{kernel}_true", 1, threads, 4 * threads, size=1024)
        assert torch.equal(right[:threads], wanted)
        wrong = run(f"{kernel}_false", 1, threads, 4 * threads, size=1024)
        assert _unwritten(wrong[1 : threads - 1]).any()


def test_random_schedules_differ_by_seed_and_repeat(harness, run):
    patterns = []
    for schedule in (*RANDOM, *RANDOM):
        harness.schedule(schedule)
        out = run("turn_round_false", 1, 96, 4 * 96)
        patterns.append(tuple(_unwritten(out[:96]).tolist()))
    assert len(set(patterns)) == len(RANDOM)
    assert patterns[: len(RANDOM)] == patterns[len(RANDOM) :]


ERRORS = {
    "barrier_in_a_branch": ({}, "divergent barrier: .*has exited"),
    "exit_before_barrier": ({"number": 40}, "divergent barrier: .*exited"),
    "two_barriers": ({}, "divergent barrier: .* waits at __syncthreads .* while .* waits at"),
    "shuffle_after_exit": ({}, r"lane of the mask is missing: .*\((9|41),0,0\) has exited"),
    "shuffle_in_a_branch": ({}, "a lane of the mask is missing: .*while .* at __syncthreads"),
    "different_masks": ({}, "a lane of the mask is missing: .*mask ffffffff.* has exited"),
    "shuffles_apart": ({}, "divergent warp operation: .* waits at a shuffle .* while .* a shuffle"),
    "not_in_own_mask": ({}, r"a lane that is not in its own mask: thread \((0|32),0,0\)"),
    "full_mask": ({"block": 48}, "names lanes which the warp does not have: .*mask ffffffff"),
    "reads_outside_mask": ({}, "a shuffle reads lane 16, which is not in the mask"),
    "misaligned_vector": ({"number": 1}, "misaligned vector load: 16 bytes"),
    "divides_by": ({"number": 63}, r"integer division by zero"),
    "follows_null": ({}, "segmentation fault: null pointer"),
}


@pytest.mark.parametrize("schedule", [IN_ORDER, REVERSE, RANDOM[0]], ids=str)
@pytest.mark.parametrize("kernel", ERRORS)
def test_what_a_kernel_must_not_do(kernel, schedule, harness, run):
    harness.schedule(schedule)
    options, message = ERRORS[kernel]
    with pytest.raises(RuntimeError, match=message) as caught:
        run(kernel, **options)
    assert f"{kernel}, block (0,0,0): " in str(caught.value)
    # The harness goes on after an error.
    assert run("sum_blocks", 2, 64, 8, 128)[:2].tolist() == [2016.0, 6112.0]


@pytest.mark.parametrize("shared", [256, 260, 256 + 4096])
def test_shared_memory_is_as_large_as_asked_for(shared, run):
    last = shared // 4 - 1
    run("shared_at", 1, 64, shared, last)
    for index in (last + 1, last + 1000, -1, -2000):
        with pytest.raises(RuntimeError, match="dynamic shared memory (out of bounds|was written)"):
            run("shared_at", 1, 64, shared, index)
    run("shared_at", 1, 64, shared, last)


def test_shared_memory_that_nobody_wrote_holds_nan_in_every_block(run):
    """The second block does not find what the first one left."""
    out = run("reads_unwritten_shared", 1, 64, 256)
    assert out[0].isnan() and (out[1:64] == 1).all()
    assert run("reads_unwritten_shared", 2, 64, 256)[:64].isnan().all()


def test_under_every_second_seed_it_holds_zeros(harness, run):
    for schedule in RANDOM:
        harness.schedule(schedule)
        out = run("reads_unwritten_shared", 1, 64, 256)[0]
        assert out == 0 if schedule.seed % 2 == 0 else out.isnan()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": 0}, "size of zero"),
        ({"block": 0}, "size of zero"),
        ({"block": 1025}, "more than 1024 threads"),
        ({"grid": 2**31}, "grid is larger"),
        ({"grid": 2**32 + 1}, "size of zero"),
        ({"shared": 99 * 1024 + 1}, "more dynamic shared memory"),
    ],
)
def test_launches_that_a_device_refuses(options, message, run):
    with pytest.raises(RuntimeError, match=f"sum_blocks: launch refused: .*{message}"):
        run("sum_blocks", **{"shared": 128, **options})


def test_launched_kernels_are_named(harness, run):
    harness.launched()
    run("sum_blocks", 2, 64, 8, 128)
    run("turn_round_true", 1, 64, 256)
    names = harness.launched()
    assert len(names) == 2 and "sum_blocks" in names[1] + names[0] and "true" in "".join(names)
