"""The pages agree with the tree: links resolve, every environment variable has its row, and the
recipe for an op names the files that the ops have."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastalign.ops.schema import STEMS

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "csrc/**/*.md") for path in ROOT.glob(pattern)
)
FENCE = re.compile(r"^```.*?^```", re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The ids that headings get: lower case, no punctuation, spaces as hyphens."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ +(.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Relative links of a page: as written, the file, the anchor."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", link):
            name, _, anchor = link.partition("#")
            yield link, (page.parent / name).resolve() if name else page, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_resolves(page):
    broken = [
        link
        for link, target, anchor in links(page)
        if not target.exists() or (anchor and anchor not in anchors(target))
    ]
    assert broken == []


def test_every_page_is_linked_from_the_readme():
    linked = {target for _, target, _ in links(ROOT / "README.md")}
    assert [path.name for path in (ROOT / "docs").glob("*.md") if path not in linked] == []


def test_every_picture_has_a_place():
    pictures = {path.resolve() for path in (ROOT / "docs" / "images").glob("*")}
    shown = {target for page in PAGES for _, target, _ in links(page)}
    assert pictures and pictures <= shown


# Environment variables ----------------------------------------------------------------------------


def python_variables(text: str) -> set[str]:
    """Names that a module looks up in the environment, also through constants of its own, and all
    strings that are the name of a variable of ours."""
    tree = ast.parse(text)
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }

    def environ(node: ast.AST) -> bool:
        return ast.unparse(node) in ("os.environ", "set(os.environ)")

    found: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and environ(node.value):
            found.append(node.slice)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Attribute):
            if environ(node.func.value) or ast.unparse(node.func) == "os.getenv":
                found.append(node.args[0])
        elif isinstance(node, ast.Compare) and any(map(environ, node.comparators)):
            found += list(ast.walk(node.left))
        elif isinstance(node, ast.Constant) and re.fullmatch(r"FASTALIGN_[A-Z_]+", str(node.value)):
            found.append(node)
    names = {node.value for node in found if isinstance(node, ast.Constant)}
    return names | {
        constants[node.id] for node in found if isinstance(node, ast.Name) and node.id in constants
    }


def variables_of_the_code() -> set[str]:
    names: set[str] = set()
    for folder in ("fastalign", "kernels", "benchmarks", "tools", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            if path != Path(__file__):
                names |= python_variables(path.read_text(encoding="utf-8"))
    names |= python_variables((ROOT / "setup.py").read_text(encoding="utf-8"))
    for path in (ROOT / "csrc").rglob("*.[ch]*"):
        names |= set(re.findall(r'getenv\("(\w+)"\)', path.read_text(encoding="utf-8")))
    names |= set(re.findall(r"^(\w+) \?=", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    macros = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "csrc").rglob("*.[ch]*"))
    return {name for name in names if not re.search(rf"defined\({name}\)", macros)}


def test_lookups_are_found():
    text = (
        'NAME = "BY_CONSTANT"\nos.environ.get(NAME)\nos.environ["BY_INDEX"]\nos.getenv("BY_CALL")\n'
        '"BY_SEARCH" in os.environ\n{"BY_SET"} <= set(os.environ)\nswitch("FASTALIGN_OTHER")'
    )
    assert python_variables(text) == {
        "BY_CONSTANT",
        "BY_INDEX",
        "BY_CALL",
        "BY_SEARCH",
        "BY_SET",
        "FASTALIGN_OTHER",
    }


def test_the_page_of_the_environment_lists_what_the_code_reads():
    page = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    ours, _, rest = page.partition("Read by libraries below")
    others, _, more = rest.partition("\n## ")

    def listed(part: str) -> set[str]:
        cells = re.findall(r"^\| (`[^|]*) \|", part, re.M)
        return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}

    code = variables_of_the_code()
    assert len(code) > 20
    assert code - listed(page) == set(), "read by the code and not on the page"
    assert listed(ours + more) - code == set(), "on the page and read by nothing"


# The recipe for an op -----------------------------------------------------------------------------

RECIPE = ROOT / "docs" / "adding-an-op.md"
FOLDERS = ("csrc", "fastalign", "kernels", "tests", "tools")


def recipe() -> tuple[list[str], list[str]]:
    """The paths in the first column of the tables: what an op needs, and what may name it too."""
    needed, _, also = RECIPE.read_text(encoding="utf-8").partition("\n## What else")
    return tuple(re.findall(r"^\| `([\w./<>]+)` \|", part, re.M) for part in (needed, also))


def tree() -> dict[str, str]:
    """Path and code of every source file that may name an op; a comment of C++ is no code."""
    files = [ROOT / "setup.py", *(path for name in FOLDERS for path in (ROOT / name).rglob("*"))]

    def code(path: Path) -> str:
        text = path.read_text(encoding="utf-8")
        return text if path.suffix == ".py" else re.sub(r"//.*", "", text)

    return {
        path.relative_to(ROOT).as_posix(): code(path)
        for path in files
        if path.suffix in {".py", ".cpp", ".h", ".cu", ".cuh"} and path != Path(__file__)
    }


def names(text: str, stem: str) -> bool:
    """Whether a text names the op itself; ``mahalanobis_cuts`` is another word."""
    return re.search(rf"(?<!\w){stem}(_backward|_loss)?(?!\w)", text) is not None


def named_by_every_op(files: dict[str, str]) -> set[str]:
    """Files that name every op, and those whose own names follow from the op's."""
    tables = {path for path, text in files.items() if all(names(text, stem) for stem in STEMS)}
    own = {path.replace(STEMS[0], "<op>") for path in files if STEMS[0] in path}
    return tables | {o for o in own if all(o.replace("<op>", stem) in files for stem in STEMS)}


@pytest.mark.parametrize("stem", STEMS)
def test_every_op_follows_the_recipe(stem):
    files = tree() | {"docs/ops.md": (ROOT / "docs" / "ops.md").read_text(encoding="utf-8")}
    for row in recipe()[0]:
        path = row.replace("<op>", stem)
        assert path in files, f"{stem} has no {path}"
        assert "<op>" in row or names(files[path], stem), f"{path} does not name {stem}"


def test_the_recipe_names_every_file_that_an_op_needs():
    needed, also = recipe()
    assert len(needed) <= 18
    files = tree()
    found = named_by_every_op(files)
    assert found - {*needed, *also} == set(), "names every op and is not on the page"
    assert {*needed} - found == {"docs/ops.md"}, "on the page and no op needs it"
    assert all(any(names(files[path], stem) for stem in STEMS) for path in also), "names no op"


@pytest.mark.parametrize("forgotten", ["fastalign/ops/a.py", "csrc/cpu/<op>_again.cpp"])
def test_a_new_table_of_ops_would_be_seen(forgotten):
    table = {forgotten.replace("<op>", stem): " ".join(STEMS) for stem in STEMS}
    assert forgotten in named_by_every_op(tree() | table)
