"""Launch plans of the CPU kernels that are forced: each gives the op's result, and is what runs."""

from __future__ import annotations

import pytest
import torch
from op_support.cases import CASES, Inputs, as_tuple, exact
from op_support.tolerance import small_term

from fastalign import ops
from fastalign.nn import DenseGaussian
from fastalign.ops import reference
from fastalign.ops.schema import SCHEMAS, stem_of

CALLS = {case.op: case for case in reversed(CASES) if "squared" not in case.options}
FITTING = ("moments.cpu", "whitener.cpu")


def kernel_of(op: str) -> str:
    own = f"{op}.cpu"
    return own if own in ops.plan_fields() else f"{stem_of(op)}.cpu"


def plans_of(kernel: str) -> list[str]:
    """Every value of every field, but few of the many numbers of threads."""
    return [
        f"{kernel}: {field}={value}"
        for field, values in ops.plan_fields()[kernel].items()
        for value in (("1", "3") if field == "threads" else values)
    ]


@pytest.mark.parametrize("op", SCHEMAS)
def test_every_plan_gives_the_result_or_is_refused(op, library):
    served = set()
    for layout in ("contiguous", "channels_last"):
        case = CALLS[op]
        arguments = case.make(Inputs(torch.float32, layout=layout, shape=(6, 21, 19, 37)))
        wanted = as_tuple(reference.kernel(case.op)(*exact(arguments)))
        for plan in plans_of(kernel_of(op)):
            try:
                with ops.forced_plan(plan):
                    found = as_tuple(getattr(torch.ops.fastalign, op)(*arguments, backend="cpu"))
            except RuntimeError as error:
                kernel, _, field = plan.partition(": ")
                assert f"{kernel}: the forced plan has no meaning" in str(error)
                assert f"(forced: {field})" in str(error)
                continue
            served.add(plan)
            for out, best in zip(found, wanted, strict=True):
                off = (out.double() - best).abs().max().item() if out.numel() else 0.0
                assert off <= small_term(best, out.dtype, ulps=512), plan
    # A gradient of z needs z kept; every other value serves some layout.
    refused = set(plans_of(kernel_of(op))) - served
    assert refused <= {f"{kernel_of(op)}: z=reread"}


def test_a_forced_instruction_set_and_width_are_what_runs(library):
    """Sums in other orders differ in the last bits, and agree with themselves."""
    p, z = torch.randn(2, 4, 33, 9, 21, generator=torch.Generator().manual_seed(0))
    kernel = kernel_of("dense_similarity")

    def loss(plan: str) -> float:
        with ops.forced_plan(plan):
            return ops.dense_similarity_loss(p, z).item()

    widths = {value: loss(f"{kernel}: width={value}") for value in ("16", "64")}
    assert widths == {value: loss(f"{kernel}: width={value}") for value in widths}
    levels = [name for name, supported in library.cpu_isa_levels().items() if supported]
    sums = {name: loss(f"{kernel}: isa={name}, width=16") for name in levels}
    assert len({*widths.values(), *sums.values()}) > 1


def test_sums_of_a_gaussian_are_the_same_under_every_plan(library):
    x = torch.randn(5, 7, 3, 11, generator=torch.Generator().manual_seed(0))

    def fitted() -> torch.Tensor:
        gaussian = DenseGaussian(7, (3, 11))
        gaussian.update(x)
        gaussian.finalize()
        return gaussian.whitener

    usual = fitted()
    for kernel in FITTING:
        for plan in plans_of(kernel):
            with ops.forced_plan(plan):
                torch.testing.assert_close(fitted(), usual, rtol=1e-4, atol=1e-4)
