import json
import math
import shutil
import subprocess

import numpy as np
import pytest

from fastalign.report.compare_page import render_comparison
from fastalign.report.comparison import Compared, Comparison, Side
from fastalign.report.gallery import Gallery
from fastalign.verdict import judge

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
HOSTILE = "<img src=x onerror=\"document.documentElement.dataset.hacked='1'\">.png"


def side(relative, **more):
    """A score at a threshold of 2; None: unsure."""
    score = math.nan if relative is None else 2 * relative
    return Side(score, relative, judge(score, 2.0), **more)


@pytest.fixture
def found():
    rows = [
        ("a", 0, 0.5, 0.6),
        ("b", 0, 0.7, 1.1),
        (HOSTILE, 1, 0.9, 1.2),
        ("d", 1, 0.8, 1.9),
        ("e", 1, 1.5, None),
        ("f", -1, 1.4, 0.2),
        ("g", 1, 1.3, 0.9),
    ]
    images = [
        Compared(path, label, "dent" if label == 1 else "", (side(first), side(second)))
        for path, label, first, second in rows
    ]
    # One that the second was fitted on: shown, and not counted.
    seen = side(0.5), side(1.5, trained_on="train/x.png")
    images.append(Compared("h", 0, "", seen))
    return Comparison(("old.st", "new.st"), (2.0, 2.0), images, (0.8, 0.9))


def test_changes_are_counted_and_ordered(found):
    assert [item.path for item in found.changed] == ["b", HOSTILE, "d", "e", "f", "g", "h"]
    order = [found.images[place].path for place in found.order()]
    assert order == ["f", "d", "h", "b", "g", HOSTILE, "e", "a"]
    assert found.table()["good"] == {"good": 1, "anomaly": 4, "unsure": 0}
    assert found.table()["anomaly"] == {"good": 2, "anomaly": 0, "unsure": 1}


def test_mistakes_are_those_of_labels_on_images_that_neither_was_fitted_on(found):
    assert found.mistakes(0) == {
        "false_alarms": 0,
        "good": 2,
        "missed": 2,
        "anomalous": 4,
        "unsure": 0,
    }
    assert found.mistakes(1)["false_alarms"] == found.mistakes(1)["missed"] == 1
    assert found.mistakes(1)["unsure"] == 1
    assert [item.effect for item in found.images] == [
        "",
        "broken",
        "mended",
        "mended",
        "broken",
        "",
        "broken",
        "",
    ]
    assert found.effects == (2, 3) and found.chance == 1.0
    assert "2 wrong verdicts are mended and 3 right ones are broken" in found.summary


@pytest.mark.parametrize(
    ("mended", "broken", "chance"), [(6, 0, 2 / 64), (5, 1, 14 / 64), (0, 0, 1)]
)
def test_the_chance_is_that_of_the_exact_test(mended, broken, chance):
    pairs = [(0.5, 1.5)] * mended + [(1.5, 0.5)] * broken
    images = [Compared(str(i), 1, "", (side(a), side(b))) for i, (a, b) in enumerate(pairs)]
    assert Comparison(("a", "b"), (2.0, 2.0), images).chance == pytest.approx(chance)


def test_what_is_written_is_json_and_says_nothing_of_labels_where_there_are_none(found):
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["changed"] == 7 and document["by_labels"]["mended"] == 2
    assert document["images"][4]["score_b"] is None
    images = [Compared("a", -1, "", (side(0.5), side(1.5)))]
    unlabelled = Comparison(("a", "b"), (2.0, 2.0), images)
    assert unlabelled.to_json()["by_labels"] is None
    assert unlabelled.summary == "1 of 1 photograph changes sides."


@pytest.fixture
def page(found, tmp_path):
    galleries = []
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        galleries.append(Gallery(folder, 2.0))
    rng = np.random.default_rng(0)
    for place in range(len(found.images)):
        image = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
        for gallery, high in zip(galleries, (1.0, 4.0), strict=True):
            scores = rng.uniform(0, high, (20, 30)).astype(np.float32)
            gallery.add(place, image, scores, None, image, np.ones((20, 30), bool))
    return lambda most: render_comparison(found, galleries, most=most)


def test_both_maps_stand_beside_each_other(page):
    html = page(3)
    assert html.count("<article") == 3 and "The 3 largest changes of 8 photographs" in html
    assert html.count("--heat-b: url(data:") == 3
    # Only the second model finds anything.
    assert html.count('class="predicted"') == 3
    assert "img-src data:" in html and "<img" not in html


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_runs_in_a_browser(page, tmp_path):
    visitor = """<script>
    const root = document.documentElement;
    root.dataset.first = document.getElementById("count").textContent;
    document.querySelector('[data-filter="effect=broken"]').click();
    root.dataset.broken = [...document.querySelectorAll(".card:not([hidden])")]
      .map((card) => card.dataset.name).join(" ");
    document.querySelector(".card:not([hidden]) .trio").click();
    root.dataset.large = document.querySelector(".card.large").dataset.name;
    </script></body>"""
    path = tmp_path / "compare.html"
    path.write_text(page(9).replace("</body>", visitor), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000"]
    done = subprocess.run(
        [*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    root = done.stdout[: done.stdout.index("<head>")]
    assert 'data-ready="8"' in root and "hacked" not in root
    assert 'data-first="7 of 8"' in root
    assert 'data-broken="b g e"' in root and 'data-large="b"' in root
