"""Of the CUDA kernels on the CPU: the ops' tests, mutants, and the sanitizers."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

from records.depends import ON_CPU, SUPPORT, host_compiler, on_cpu, stems
from records.store import Check, Unavailable

OWN = Path(__file__).resolve()  # what it does with findings counts too


def _simulated(_: str) -> dict[str, int]:
    from cuda_on_cpu_support import simulating

    return {"passed": simulating.run()}


def _simulated_inputs(_: str) -> set[Path]:
    from cuda_on_cpu_support.simulating import FILES

    own = [*FILES, ON_CPU / "conftest.py", SUPPORT / "simulating.py"]
    return {OWN}.union(*(on_cpu(op, *own) for op in stems()))


# Together, since the last of them asks which kernels the others launched.
SIMULATED = Check(
    "simulated",
    units=lambda: ["ops"],
    inputs=_simulated_inputs,
    find=_simulated,
    made_with=lambda: {"compiler": host_compiler()},
)


def _mutants(op: str) -> dict[str, str | None]:
    import torch
    from cuda_on_cpu_support import backend, mutant_list, mutants
    from cuda_on_cpu_support.builder import UNOPTIMISED

    unregister = backend.register()
    try:
        torch.manual_seed(0)
        found = {mutants.UNCHANGED: mutants.caught(op, backend.build(UNOPTIMISED, [op]))}
        for mutant in mutant_list.MUTANTS:
            if mutant.op == op:
                torch.manual_seed(0)
                found[mutant.words] = mutants.caught(op, mutant.build())
        return found
    finally:
        unregister()


def _mutant_words(op: str) -> dict[str, object]:
    from cuda_on_cpu_support.mutant_list import MUTANTS

    return {"MUTANTS": [[*astuple(mutant)] for mutant in MUTANTS if mutant.op == op]}


MUTANTS = Check(
    "mutants",
    units=stems,
    inputs=lambda op: on_cpu(op, SUPPORT / "mutants.py") | {OWN},
    find=_mutants,
    made_with=lambda: {"compiler": host_compiler()},
    facts=_mutant_words,
)


def _sanitized_tools() -> dict[str, str]:
    from cuda_on_cpu_support.sanitizers import runtimes

    compiler = host_compiler()
    if runtimes() is None:
        raise Unavailable("the compiler has no sanitizer runtimes")
    return {"compiler": compiler}


def _sanitized(op: str) -> int:
    from cuda_on_cpu_support.sanitizers import every_case

    return every_case(op)


SANITIZED = Check(
    "sanitized",
    units=stems,
    inputs=lambda op: on_cpu(op, SUPPORT / "sanitizers.py", SUPPORT / "sanitized.py") | {OWN},
    find=_sanitized,
    made_with=_sanitized_tools,
)
