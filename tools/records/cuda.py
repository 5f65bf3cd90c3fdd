"""Of the CUDA kernels: machine code, launches and proofs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from cuda_compile import machine_code, toolchain

from records.depends import SUPPORT, TOOLS, host_compiler, on_cpu, release, stems
from records.inputs import imported, included
from records.store import Check, Unavailable

OWN = Path(__file__).resolve()  # what it does with findings counts too
SCALE = "scale"  # the losses' backward, which is no op
RECORDER = TOOLS / "record_launches.cpp"


def _nvcc() -> str:
    if toolchain.nvcc() is None:
        raise Unavailable("nvcc is not on the PATH and NVCC is not set")
    return toolchain.compiler_version()


def _code_tools() -> dict[str, str]:
    if toolchain.disassembler() is None:
        raise Unavailable("no cuobjdump: not in the toolkit, nor with triton")
    return {"nvcc": _nvcc()}


MACHINE_CODE = Check(
    "machine_code",
    units=lambda: [source.name for source in toolchain.sources()],
    inputs=lambda unit: {
        *included([toolchain.SOURCES / unit]),
        *imported([TOOLS / "machine_code.py"]),
        OWN,
    },
    find=lambda unit: machine_code.packed(machine_code.compiled(unit)),
    made_with=_code_tools,
)


def _launches(stem: str) -> list[object]:
    from cuda_compile import stems as files
    from cuda_compile.chips import CHIPS
    from cuda_compile.launches import launches

    return [
        {
            "call": call.name,
            "must_move": call.must_move,
            "launches": {
                chip.name: [[x.kernel, x.blocks, x.threads, x.shared] for x in launches(call, chip)]
                for chip in CHIPS
            },
        }
        for call in files.of(stem).launched()
    ]


LAUNCHES = Check(
    "launches",
    units=stems,
    inputs=lambda stem: (
        on_cpu(stem, TOOLS / "launches.py", TOOLS / "chips.py")
        # Itself alone: it names the Triton kernels too.
        | {OWN, RECORDER, TOOLS / "stems" / f"{stem}.py"}
    ),
    find=_launches,
    made_with=lambda: {"compiler": host_compiler()},
)


def _proofs(stem: str) -> dict[str, object]:
    from cuda_compile import proofs

    asked = proofs.questions(stem)
    first: dict[str, proofs.Question] = {}
    for question in asked:
        first.setdefault(question.kernel.family, question)
    return {
        "kernels": [
            {
                "kernel": question.kernel.name,
                "call": question.call,
                "grid": [question.launch.blocks, question.launch.threads],
                **asdict(proofs.prove(question)),
            }
            for question in asked
        ],
        "without a barrier": {
            family: proofs.without_barriers(question, proofs.REMOVED[family])
            for family, question in first.items()
            if family in proofs.REMOVED
        },
    }


def _proved(stem: str) -> dict[str, object]:
    from cuda_compile import stems as files

    return {} if stem == SCALE else {"PROVED": files.of(stem).PROVED}


PROOFS = Check(
    "proofs",
    units=lambda: [*stems(), SCALE],
    inputs=lambda stem: on_cpu(stem, TOOLS / "proofs.py", SUPPORT / "checks.py") | {OWN, RECORDER},
    find=_proofs,
    made_with=lambda: {
        "nvcc": _nvcc(),
        "sentryward": release("sentryward"),
        "compiler": host_compiler(),
    },
    facts=_proved,
)
