"""Loops of a kernel's machine code, and what a round of each issues, by class."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cuda_compile.toolchain import BUILD, ToolError, disassembler, kernels_of

_LINE = re.compile(
    r"\s+/\*(?P<at>[0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(?P<op>[A-Z][\w.]*)\s*(?P<rest>[^;]*);"
)
# By the first part of an opcode; what is not named is integer, move or predicate work.
_CLASSES = {
    "global load": ("LDG", "LDGSTS"),
    "global store": ("STG",),
    "shared": ("LDS", "STS"),
    "float32": ("FFMA", "FADD", "FMUL"),
    "float64": ("DADD", "DMUL", "DFMA", "DSETP"),
    "special": ("MUFU", "I2F", "F2I", "F2F"),
    "control": ("BRA", "BSSY", "BSYNC", "BAR", "CALL", "RET", "WARPSYNC", "EXIT"),
}
_CLASS_OF = {op: name for name, ops in _CLASSES.items() for op in ops}


def class_of(opcode: str) -> str:
    return _CLASS_OF.get(opcode.partition(".")[0], "other")


@dataclass(frozen=True)
class Loop:
    """From a branch's target to the last branch back to it, without the loops inside."""

    first: int  # address
    last: int
    depth: int
    opcodes: tuple[str, ...]

    @property
    def counts(self) -> Counter[str]:
        """Instructions by class."""
        return Counter(map(class_of, self.opcodes))


def loops_of(source: Path, architecture: str) -> dict[str, list[Loop]]:
    """The loops of every kernel of a source, by symbol, in the order of their addresses.

    Raises:
        ToolError: a tool is missing, or the source does not compile.
    """
    kernels_of(source, architecture)  # compiles it, and leaves one cubin of it
    (cubin,) = BUILD.glob(f"{source.stem}.{architecture}.*.cubin")
    tool = disassembler()
    if tool is None:
        raise ToolError("cuobjdump was not found")
    done = subprocess.run([tool, "-sass", str(cubin)], capture_output=True, text=True)
    if done.returncode != 0:
        raise ToolError(f"cuobjdump: {done.stderr[-1000:]}")
    return loops_in(done.stdout)


def loops_in(disassembly: str) -> dict[str, list[Loop]]:
    """The same of what ``cuobjdump -sass`` says."""
    code: dict[str, list[tuple[int, str, str]]] = {}
    current: list[tuple[int, str, str]] = []
    for line in disassembly.splitlines():
        if "Function :" in line:
            current = code.setdefault(line.rpartition(":")[2].strip(), [])
        elif found := _LINE.match(line):
            current.append((int(found["at"], 16), found["op"], found["rest"]))
    return {symbol: _loops(lines) for symbol, lines in code.items()}


def _loops(lines: list[tuple[int, str, str]]) -> list[Loop]:
    ends: dict[int, int] = {}
    for at, op, rest in lines:
        target = re.search(r"0x([0-9a-f]+)", rest) if op.startswith("BRA") else None
        if target is not None and int(target[1], 16) < at:
            ends[int(target[1], 16)] = at
    spans = sorted(ends.items(), key=lambda span: (span[0], -span[1]))

    def inside(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return one != other and other[0] <= one[0] and one[1] <= other[1]

    found = []
    for span in spans:
        inner = [other for other in spans if inside(other, span)]
        own = tuple(
            op
            for at, op, _ in lines
            if span[0] <= at <= span[1] and not any(low <= at <= high for low, high in inner)
        )
        found.append(Loop(*span, sum(inside(span, other) for other in spans), own))
    return found
