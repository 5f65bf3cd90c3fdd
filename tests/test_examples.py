"""The examples of docs/examples run, are short, and print what docs/embedding.md says they do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "examples"
PAGE = FOLDER.parent / "embedding.md"
NUMBER = r"-?\d+\.\d+(?:e-?\d+)?"
# By file: what it needs beyond fastalign, and how far a number may lie from the page on another
# machine, where sums are taken in another order and training goes on from there.
NEEDS = {"patchcore_aligned": "anomalib", "dense_loss_lightly": "lightly"}
DIGITS = 0.15


def _dense_loss(numbers: list[float]) -> None:
    """The loss falls, and the last one is that of all pairs, to what is printed of it."""
    assert numbers[0:7:2] == sorted(numbers[0:7:2], reverse=True)
    assert numbers[8] == pytest.approx(numbers[6], abs=1.5e-4)


def _warp(numbers: list[float]) -> None:
    """The two gradients are the same to what is printed of them."""
    assert numbers[1:7] == pytest.approx(numbers[7:13], abs=1.5e-4)


def _views(numbers: list[float]) -> None:
    assert numbers[0] + 0.1 < min(numbers[1:])


RELATIONS = {"dense_loss": _dense_loss, "warp_instead_of_grid": _warp, "two_views": _views}

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", names())
def test_an_example_prints_what_the_page_shows(name, page, python):
    """In a process of its own, as a reader runs it: nothing that ran before is left in torch."""
    if name in NEEDS:
        needed = NEEDS[name]
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install {needed}")
    done = python.run(FOLDER / f"{name}.py")
    assert done.returncode == 0, done.stderr[-2000:]
    printed = done.stdout.strip()
    shown = re.search(rf"\(examples/{name}\.py\)[^\n]*\n(?:[^\n]+\n)*\n((?:    [^\n]*\n)+)", page)
    assert shown, f"docs/embedding.md shows no output of {name}.py"
    expected = "\n".join(line[4:] for line in shown.group(1).rstrip().splitlines())
    assert re.sub(NUMBER, "N", printed) == re.sub(NUMBER, "N", expected)
    RELATIONS.get(name, lambda numbers: None)([float(n) for n in re.findall(NUMBER, printed)])
    for own, given in zip(re.findall(NUMBER, printed), re.findall(NUMBER, expected), strict=True):
        if "e-" in given:  # a rounding error: no larger than ten times the one shown
            assert float(own) < 10 * float(given)
        else:
            assert float(own) == pytest.approx(float(given), abs=DIGITS)


@pytest.mark.parametrize("name", names())
def test_an_example_is_short(name):
    assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 40


def test_every_file_that_the_page_links_to_exists(page):
    links = re.findall(r"\]\(([\w./-]+?)(?:#[\w-]+)?\)", page)
    assert len(links) >= len(names())
    assert [link for link in links if not (PAGE.parent / link).is_file()] == []
