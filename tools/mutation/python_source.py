"""Mutants of Python files: one small change of meaning each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """``text`` at ``start`` to ``end`` of a file, in characters, becomes ``new``."""

    file: str
    line: int
    start: int
    end: int
    text: str
    new: str

    def apply(self, source: str) -> str:
        """The file's text with the change."""
        if source[self.start : self.end] != self.text:
            raise ValueError(f"{self.file} is another file than the one the mutant was made of")
        return source[: self.start] + self.new + source[self.end :]

    def __str__(self) -> str:
        old, new = (" ".join(part.split()) for part in (self.text, self.new))
        return f"{self.file}:{self.line}: {old} -> {new or '(nothing)'}"


COMPARISONS = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
ARITHMETIC = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.MatMult: "@ 2 *",
    ast.Pow: "*",
    ast.BitAnd: "|",
    ast.BitOr: "&",
}


class _Places(ast.NodeVisitor):
    """Collects ``(first character, last character, new text)``."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.found: list[tuple[int, int, str]] = []
        lines = source.splitlines(keepends=True)
        self.starts = [0]
        for line in lines:
            self.starts.append(self.starts[-1] + len(line))
        self.lines = lines

    def at(self, line: int, column: int) -> int:
        """Characters before a place that ast gives in bytes of UTF-8."""
        prefix = self.lines[line - 1].encode()[:column].decode()
        return self.starts[line - 1] + len(prefix)

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.at(node.lineno, node.col_offset), self.at(node.end_lineno, node.end_col_offset)

    def add(self, node: ast.expr | ast.stmt, new: str) -> None:
        self.found.append((*self.span(node), new))

    def text(self, node: ast.expr) -> str:
        start, end = self.span(node)
        return self.source[start:end]

    def between(self, left: ast.expr, right: ast.expr, new: str) -> None:
        """The operator between two operands; brackets around them stay."""
        start, end = self.span(left)[1], self.span(right)[0]
        middle = self.source[start:end]
        bare = middle.strip(" ()\n\t\\")
        if bare and "#" not in middle:
            offset = middle.index(bare)
            self.found.append((start + offset, start + offset + len(bare), new))

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            self.between(left, right, COMPARISONS[type(operator)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        # The sum of types in an annotation, and the formatting of a text, are no arithmetic.
        texts = any(
            isinstance(n, ast.JoinedStr | ast.Constant)
            and not isinstance(getattr(n, "value", None), int | float)
            for n in (node.left, node.right)
        )
        if type(node.op) in ARITHMETIC and not texts:
            self.between(node.left, node.right, ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        new = "or" if isinstance(node.op, ast.And) else "and"
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.between(left, right, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub):
            self.add(node, f"({self.text(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.add(node, str(not node.value))
        elif isinstance(node.value, int):
            self.add(node, str(node.value + 1))
        elif isinstance(node.value, float):
            self.add(node, repr(node.value * 2 if node.value else 1.0))

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return  # only a type checker reads it
        self.add(node.test, f"not ({self.text(node.test)})")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.add(node.test, f"not ({self.text(node.test)})")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self.add(node, "pass")

    def visit_Expr(self, node: ast.Expr) -> None:
        # A call for its effect; a docstring is no code.
        if isinstance(node.value, ast.Call):
            self.add(node, "pass")
        if not isinstance(node.value, ast.Constant):
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        for statement in node.body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Texts for people are read by people."""


def mutants(file: str, source: str) -> Iterator[Mutant]:
    """Every mutant of one Python file; ``file`` is its path from the repository's root."""
    tree = ast.parse(source)
    places = _Places(source)
    places.visit(tree)
    for start, end, new in places.found:
        yield Mutant(file, source.count("\n", 0, start) + 1, start, end, source[start:end], new)
