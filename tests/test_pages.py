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


def recipe() -> list[str]:
    """The paths in the first column of the recipe's tables."""
    return re.findall(r"^\| `([\w./<>]+)` \|", RECIPE.read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("stem", STEMS)
def test_every_op_follows_the_recipe(stem):
    rows = recipe()
    assert len([row for row in rows if "<op>" in row]) >= 8 and len(rows) >= 20
    missing = []
    for row in rows:
        path = ROOT / row.replace("<op>", stem)
        named = "<op>" in row or (path.is_file() and stem in path.read_text(encoding="utf-8"))
        if not path.is_file() or not named:
            missing.append(row)
    assert missing == [], f"{stem} has no such file, or the file does not name it"


def test_the_recipe_names_every_file_that_all_ops_have():
    first, *others = STEMS
    shared = {
        path.relative_to(ROOT).as_posix().replace(first, "<op>")
        for folder in ("csrc", "fastalign", "kernels", "tests", "tools")
        for path in (ROOT / folder).rglob(f"*{first}*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    shared = {
        name
        for name in shared
        if all((ROOT / name.replace("<op>", other)).is_file() for other in others)
    }
    assert len(shared) >= 8 and shared - set(recipe()) == set()
