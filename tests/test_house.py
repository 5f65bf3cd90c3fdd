"""The house, read from the source: no circle of imports, no use of private names of others, and the
map of docs/house.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "house.md"
# Where each package's source lies; the kernels are installed as fastalign.kernels.
PACKAGES = {"fastalign": ROOT / "fastalign", "fastalign.kernels": ROOT / "kernels"}
# The native library, and the one module that opens it.
LIBRARY, OPENER = "fastalign._C", "fastalign.ops.native"


def read_modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name."""
    found = {LIBRARY: ast.parse("")}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            name = ".".join(part for part in parts if part != "__init__")
            found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imported(tree: ast.Module, modules: set[str]) -> Iterator[tuple[str, str, str]]:
    """What a module imports from the package: the module, the name taken from it (empty where it is
    the module itself), and what it is called here. Imports anywhere count: in functions, for types
    only, and by ``importlib`` with a written name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in modules:
                    yield alias.name, "", alias.asname or alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in modules:
                    yield inner, "", alias.asname or alias.name
                elif node.module in modules:
                    yield node.module, alias.name, alias.asname or alias.name
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            for part in ast.walk(node.args[0]):
                if isinstance(part, ast.Constant) and part.value in modules:
                    yield part.value, "", part.value


def circles(graph: dict[str, set[str]]) -> list[str]:
    """One circle of the graph in words, or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" -> ".join(reversed(error.args[1]))]
    return []


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def bound_names(tree: ast.Module) -> set[str]:
    """Private names that a module makes: functions, classes, variables, attributes of its own."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if ast.unparse(node.value) in ("self", "cls"):
                found.add(node.attr)
    return {name for name in found if is_private(name)}


def intrusions(modules: dict[str, ast.Module]) -> list[str]:
    """Every use of a private name of another module of the package: imported, taken from the
    module, or from an object that is not the user's own."""
    own = {name: bound_names(tree) for name, tree in modules.items()}
    everyone = set().union(*own.values())
    found = []
    for module, tree in modules.items():
        names = set()
        for source, name, called in imported(tree, set(modules)):
            if (module, source) == (OPENER, LIBRARY):
                continue
            if is_private(name) or is_private(source.rpartition(".")[2]):
                found.append(f"{module} imports {name or 'the module'} of {source}")
            if not name:
                names.add(called)
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Attribute) and is_private(node.attr)):
                continue
            holder = ast.unparse(node.value)
            foreign = node.attr in everyone and node.attr not in own[module]
            if holder in names or (foreign and holder not in ("self", "cls", "super()")):
                found.append(f"{module}:{node.lineno} takes {holder}.{node.attr}")
    return found


def floors() -> dict[str, list[str]]:
    """The places of the page from the top down, as modules, each with those that it may import."""

    def module(place: str) -> str:
        return place if place == "fastalign" else f"fastalign.{place}"

    table = PAGE.read_text(encoding="utf-8").partition("## Floors")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \|.*\|([^|]*)\|$", table, re.M)
    return {
        module(place): [module(name) for name in re.findall(r"`([\w.]+)`", names)]
        for place, names in rows
    }


def place_of(module: str, places: dict[str, list[str]]) -> str:
    """The row that a module belongs to; a module of the package that has none is its own."""
    parts = module.split(".")
    prefixes = (".".join(parts[:end]) for end in range(len(parts), 1, -1))
    return next((name for name in prefixes if name in places), module)


def trespasses(graph: dict[str, set[str]], places: dict[str, list[str]]) -> list[str]:
    """Imports that the page does not allow."""
    return sorted(
        f"{module} imports {source}"
        for module, sources in graph.items()
        for source in sources
        if (here := place_of(module, places)) != (there := place_of(source, places))
        and there not in places.get(here, [])
    )


MODULES = read_modules()
GRAPH = {
    module: {source for source, _, _ in imported(tree, set(MODULES))} - {module}
    for module, tree in MODULES.items()
}


def test_imports_run_in_no_circle():
    assert circles(GRAPH) == []


def test_no_module_uses_private_names_of_another():
    assert intrusions(MODULES) == []


def foreign_writes(tree: ast.Module) -> list[str]:
    """Assignments to public attributes of objects that are not the writer's own."""
    found = []
    for node in ast.walk(tree):
        written = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if written and ast.unparse(node.value) not in ("self", "cls") and node.attr[0] != "_":
            found.append(f"line {node.lineno} sets {ast.unparse(node)}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
            if ast.unparse(node.args[0]) != "self":
                found.append(f"line {node.lineno} sets attributes of {ast.unparse(node.args[0])}")
    return found


def test_rooms_and_steps_of_a_fit_write_their_own_attributes_alone():
    found = {
        module: foreign_writes(tree)
        for module, tree in MODULES.items()
        if module.startswith("fastalign.models.")
    }
    assert len(found) > 20
    assert {module: lines for module, lines in found.items() if lines} == {}
    lines = "model.fca = None\nself.fca = None\nsetattr(model, 'fca', None)\nself.a, b.c = 1, 2"
    assert len(foreign_writes(ast.parse(lines))) == 3


def test_every_import_is_one_that_the_page_allows():
    assert trespasses(GRAPH, floors()) == []


def test_the_page_has_every_place_and_leads_down_only():
    places = floors()
    assert {place_of(module, places) for module in GRAPH} == set(places)
    order = list(places)
    upwards = [
        f"{place} may import {name}"
        for place, names in places.items()
        for name in names
        if name not in order or order.index(name) <= order.index(place)
    ]
    assert upwards == []


def test_the_page_names_files_that_exist():
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:models|ops|tests)/[\w/]+\.py)`", text))
    missing = [
        n for n in named if not any((top / n).is_file() for top in (ROOT, ROOT / "fastalign"))
    ]
    assert named and missing == []


def test_a_trespass_would_be_seen():
    places = {"fastalign.a": ["fastalign.b"], "fastalign.b": []}
    assert trespasses({"fastalign.a.x": {"fastalign.b.y"}}, places) == []
    found = trespasses({"fastalign.b.y": {"fastalign.a"}}, places)
    assert found == ["fastalign.b.y imports fastalign.a"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from fastalign.b import x", "def f():\n    from fastalign import a"),
        ("if TYPE_CHECKING:\n    from fastalign.b import X", "import fastalign.a"),
        ("import importlib\nimportlib.import_module('fastalign.b')", "import fastalign.a as here"),
    ],
)
def test_a_circle_would_be_seen(first, second):
    trees = {"fastalign.a": ast.parse(first), "fastalign.b": ast.parse(second)}
    graph = {name: {m for m, _, _ in imported(tree, set(trees))} for name, tree in trees.items()}
    assert "fastalign.a -> fastalign.b" in circles(graph)[0] + " -> fastalign.b"


@pytest.mark.parametrize(
    "line",
    [
        "from fastalign.b import _secret",
        "from fastalign import b\nb._secret()",
        "def f(thing):\n    thing._held = 1",
        "from fastalign import b\nb.Thing()._held",
    ],
)
def test_a_private_name_would_be_seen(line):
    trees = {
        "fastalign.a": ast.parse(line),
        "fastalign.b": ast.parse(
            "def _secret(): ...\nclass Thing:\n    def __init__(self):\n        self._held = 0"
        ),
    }
    assert len(intrusions(trees)) == 1


def test_whoever_catches_everything_says_why():
    """A handler of every exception raises it again, hands it on, or says in a comment why not."""
    found = []
    for path in sorted(PACKAGES["fastalign"].rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            kind = "" if node.type is None else ast.unparse(node.type)
            if kind not in ("", "Exception", "BaseException"):
                continue
            raises = any(isinstance(inner, ast.Raise) and not inner.exc for inner in node.body)
            used = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
            said = "#" in "".join(lines[node.lineno - 1 : node.lineno + 1])
            if not (raises or said or node.name in used):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found
