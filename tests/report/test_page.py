import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fastalign.engine.results import Alignment
from fastalign.regions import find_regions
from fastalign.report.gallery import Gallery, fit_inside
from fastalign.report.marks import MOST, marks
from fastalign.report.page import render_report

HOSTILE = "another <b>part</b>"
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.cards = []
        self.text = ""
        self.silent = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.silent = tag in ("script", "style")
        self.tags.append((tag, attributes))
        if tag == "article":
            self.cards.append(attributes)

    def handle_endtag(self, tag):
        self.silent = False

    def handle_data(self, data):
        self.text += "" if self.silent else data


def test_names_from_the_data_stay_text(make_evaluation, gallery):
    evaluation = make_evaluation()
    html = render_report(evaluation, gallery)
    page = Page(html)
    assert [attributes for tag, attributes in page.tags if tag == "img"] == [{"alt": ""}]
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]
    assert {card["data-name"] for card in page.cards} == {item.path for item in evaluation.images}
    assert evaluation.category in page.text


def test_the_page_loads_nothing_from_outside(make_evaluation, gallery):
    html = render_report(make_evaluation(), gallery)
    for address in re.findall(r"url\(([^)]*)\)", html):
        assert address.startswith("data:image/")
    for _, attributes in Page(html).tags:
        assert not {"src", "href", "srcset", "action"} & set(attributes)
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_worst_first_and_the_cap_is_stated(make_evaluation, gallery):
    evaluation = make_evaluation(12)
    page = Page(render_report(evaluation, gallery, most=5))
    assert len(page.cards) == 5
    assert "The 5 worst of 12 images are shown." in page.text
    wrong = ["wrong" in card["class"].split() for card in page.cards]
    assert wrong == sorted(wrong, reverse=True)
    assert any(wrong)
    everything = Page(render_report(evaluation, gallery))
    assert len(everything.cards) == 12 and "All 12 images are shown." in everything.text


def test_size_is_bounded_by_the_cap(tmp_path, make_evaluation, gallery):
    evaluation = make_evaluation(12, side=700)
    small = len(render_report(evaluation, gallery, most=2))
    large = len(render_report(evaluation, gallery, most=12))
    # Noise is the worst case for compression; a photograph takes about a third of it.
    assert (large - small) / 10 < 250_000


def test_missing_figures_show_their_reason(make_evaluation, gallery):
    evaluation = make_evaluation()
    evaluation.metrics["pixel_ap"] = None
    evaluation.reasons["pixel_ap"] = "no anomalous test image has a mask"
    evaluation.curves = {}
    page = Page(render_report(evaluation, gallery))
    assert "no anomalous test image has a mask" in page.text
    assert "ROC, images" not in page.text and "PRO, pixels" not in page.text


def test_without_a_threshold_there_are_no_verdicts(make_evaluation, gallery):
    page = Page(render_report(make_evaluation(3, threshold=None), gallery))
    assert "called good" not in page.text and "× threshold" not in page.text
    assert "highest score of each map by itself" in page.text
    assert {card["data-verdict"] for card in page.cards} == {"unsure"}


def test_what_has_no_verdict_is_not_drawn_as_good(make_evaluation, gallery):
    evaluation = make_evaluation(4)
    images = [replace(image, label=-1) for image in evaluation.images]
    evaluation.images[:] = images
    assert 'class="key other"' not in render_report(evaluation, gallery)
    evaluation.images[1] = replace(images[1], score=math.nan, predicted=None)
    page = render_report(evaluation, gallery)
    assert '<span class="key other"></span>unsure' in page
    assert page.count('class="dot other"') == 1


def test_mistakes_stand_before_the_figures_over_all_thresholds(make_evaluation, gallery):
    evaluation = make_evaluation(12)
    evaluation.images[1] = replace(evaluation.images[1], score=math.nan, predicted=None)
    text = Page(render_report(evaluation, gallery)).text
    for label, name in ((1, "Missed"), (0, "False alarms")):
        judged = [i for i in evaluation.images if i.label == label and i.predicted is not None]
        wrong = sum(item.wrong for item in judged)
        tile = re.search(rf"{name}\s*(\d+) of (\d+)", text)
        assert tile is not None and tile.groups() == (str(wrong), str(len(judged)))
        assert text.index(name) < text.index("Image AUROC")
    # The image without a score, and the one file that was left out.
    assert re.search(r"Unsure\s*2 of 13", text)


def test_scores_are_told_as_multiples_of_the_threshold(make_evaluation, gallery):
    evaluation = make_evaluation(3, threshold=0.8)
    text = Page(render_report(evaluation, gallery)).text
    for item in evaluation.images:
        assert f"{item.score / 0.8:.2f} × threshold" in text


def test_where_alignment_stayed_out_nothing_is_told_of_it(make_evaluation, gallery):
    evaluation = make_evaluation()
    assert "turn -3.0°" in Page(render_report(evaluation, gallery)).text
    idle = Alignment(math.nan, math.nan, 0.0, 0.0, 1.0, 1.0)
    evaluation.images = [replace(item, alignment=idle) for item in evaluation.images]
    html = render_report(evaluation, gallery)
    for word in ("turn ", "residual", "Residual", "panel aligned", "--aligned", "hatching"):
        assert word not in re.sub("(?s)<style>.*?</style>|<script>.*?</script>", "", html)
    assert "–" not in Page(html).text


def test_when_of_what_and_how_busy(make_evaluation, gallery):
    evaluation = make_evaluation(2)
    load = {"load_average": 3.5, "cores": 2, "waited": 0.4, "busy": True}
    # Below the working folder, and elsewhere.
    places = {"data": str(Path.cwd() / "parts" / "a"), "model_file": "/elsewhere/m.safetensors"}
    evaluation.protocol |= {"date": "2026-05-04T10:20:30+02:00", "load": load, **places}
    text = Page(render_report(evaluation, gallery)).text
    # Whole in the protocol at the end alone.
    assert text.count(str(Path.cwd())) == 1 and text.count("parts/a") == 2
    for fact in ("2026-05-04 10:20", "/elsewhere/m.safe", "load average 3.5 on 2", "was busy"):
        assert fact in text


def test_images_without_labels_make_a_page_of_predictions(make_evaluation, gallery):
    evaluation = make_evaluation(6)
    evaluation.images = [replace(item, label=-1, reason=HOSTILE) for item in evaluation.images]
    evaluation.curves = {}
    found = sum(item.predicted for item in evaluation.images)
    page = Page(render_report(evaluation, gallery, order=[2, 0]))
    assert re.search(rf"Anomalies\s*{found} of 6", page.text)
    assert [card["data-rank"] for card in page.cards] == ["0", "1"]
    assert "Missed" not in page.text and "AUROC" not in page.text and HOSTILE in page.text


def test_no_predicted_outline_without_a_threshold(tmp_path):
    gallery = Gallery(tmp_path, float("nan"))
    image = np.zeros((8, 8, 3), np.uint8)
    gallery.add(0, image, np.ones((8, 8), np.float32), None, image, np.ones((8, 8), bool))
    assert gallery.item(0).predicted == "" and gallery.item(0).truth == ""


def test_a_one_pixel_defect_survives_the_thumbnail(tmp_path):
    gallery = Gallery(tmp_path, 1.0)
    image = np.zeros((1500, 2000, 3), np.uint8)
    truth = np.zeros((1500, 2000), bool)
    truth[700, 900] = True
    gallery.add(0, image, np.zeros((8, 8), np.float32), truth, image, truth)
    assert gallery.item(0).truth.startswith("M")
    assert (gallery.item(0).width, gallery.item(0).height) == (320, 240)


def test_thumbnails_keep_the_aspect_and_never_vanish():
    assert fit_inside(1000, 500, 100) == (100, 50)
    assert fit_inside(30, 20, 100) == (30, 20)
    assert fit_inside(10_000, 3, 100) == (100, 1)


def browse(html, folder):
    """The page as the browser's document model after its scripts have run."""
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=2000",
        "--dump-dom",
        path.as_uri(),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Page(result.stdout)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_runs_in_a_browser(make_evaluation, gallery, tmp_path):
    """The script sets ``data-ready`` on the root as its last step, with the number of cards."""
    page = browse(render_report(make_evaluation(), gallery), tmp_path)
    root = next(attributes for tag, attributes in page.tags if tag == "html")
    assert root.get("data-ready") == "7"
    assert "data-hacked" not in root
    tools = next(attributes for _, attributes in page.tags if attributes.get("id") == "tools")
    assert "hidden" not in tools


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_filter_order_and_enlarging_work(make_evaluation, gallery, tmp_path):
    evaluation = make_evaluation()
    visitor = """<script>
    document.querySelector('[data-filter="anomaly"]').click();
    const order = document.getElementById("order");
    order.value = "low";
    order.dispatchEvent(new Event("change"));
    document.querySelector(".card:not([hidden]) .panels").click();
    document.getElementById("viewer-on").click();
    document.getElementById("theme").click();
    </script></body>"""
    photo = np.zeros((30, 60, 3), np.uint8)
    html = render_report(evaluation, gallery, photograph=lambda index: photo)
    page = browse(html.replace("</body>", visitor), tmp_path)
    shown = [card for card in page.cards if "hidden" not in card]
    assert len(shown) == sum(item.label for item in evaluation.images)
    assert {card["data-kind"] for card in shown} == {"anomaly"}
    scores = [float(card["data-score"]) for card in page.cards]
    assert scores == sorted(scores)
    viewer = next(attributes for _, attributes in page.tags if attributes.get("id") == "viewer")
    assert "open" in viewer
    picture = next(attributes for tag, attributes in page.tags if tag == "img")
    # The second one of those shown, at the photograph's own size.
    assert picture["alt"] == shown[1]["data-name"]
    enlarged = json.loads(re.search(r'id="photographs">(.*?)</script>', html)[1])
    assert picture["src"] == enlarged[shown[1]["data-rank"]][0]
    assert "60 × 30" in page.text
    root = next(attributes for tag, attributes in page.tags if tag == "html")
    assert root["data-theme"] in ("light", "dark")


# Each of a run of visits moves the slider and notes what the page says then.
SLIDES = """<script>
const slider = document.getElementById("slider"), notes = [];
const note = () => notes.push([
  document.getElementById("told").textContent,
  document.getElementById("keep").hidden ? "" : document.getElementById("command").textContent,
  [...document.querySelectorAll(".card")].map((card) => card.dataset.verdict),
  [...document.querySelectorAll(".card.wrong:not([hidden])")].length,
  document.querySelector(".trial")?.getAttribute("visibility"),
]);
note();
for (const value of [slider.max, 0, 2]) {
  slider.value = value;
  slider.dispatchEvent(new Event("input"));
  note();
}
document.getElementById("reset").click();
note();
document.documentElement.dataset.notes = JSON.stringify(notes);
</script></body>"""


def slide(evaluation, gallery, folder, **options):
    html = render_report(evaluation, gallery, **options).replace("</body>", SLIDES)
    page = browse(html, folder)
    root = next(attributes for tag, attributes in page.tags if tag == "html")
    return json.loads(root["data-notes"])


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_slider_judges_again_all_images_and_never_what_is_unsure(
    make_evaluation, gallery, tmp_path
):
    evaluation = make_evaluation(9)
    evaluation.protocol["model_file"] = "a/m's <script>.safetensors"
    images = evaluation.images
    for place, score in enumerate((0.9, 0.4, 2.0, 0.5, 3.0, math.nan, 1.5, 0.6, 0.7)):
        predicted = int(score > 1) if math.isfinite(score) else None
        images[place] = replace(images[place], score=score, predicted=predicted)
    # Labels: 1 0 0 1 0 0 1 0 0. One image of the training is in no figure, but on the page.
    images[8] = replace(images[8], counted=False)
    # Seven of nine are shown; all that count are counted.
    shown = [0, 1, 2, 4, 5, 6, 8]
    stored, top, bottom, second, back = slide(evaluation, gallery, tmp_path, order=shown)
    assert stored == back and stored[1] == "" and stored[4] == "hidden"
    told, _, verdicts, wrong, _ = stored
    assert "3 of 8 are anomalies" in told and "1 unsure at any threshold" in told
    assert "2 false alarms and 2 missed of 8 by their labels" in told and wrong == 3
    words = ["missed", "passed", "false alarm", "false alarm", "unsure", "found", "passed"]
    assert verdicts == words
    told, _, verdicts, wrong, _ = top
    assert "0 of 8 are anomalies" in told and "3 anomalies change to good" in told
    assert "(2 good and 1 anomalous by their labels)" in told and "2 and 2 at 1" in told
    assert verdicts == ["missed", *["passed"] * 3, "unsure", "missed", "passed"] and wrong == 2
    told, _, verdicts, _, _ = bottom
    assert "7 of 8 are anomalies" in told and "4 good change to anomalies" in told
    assert verdicts.count("unsure") == 1 and "passed" not in verdicts
    # Above the two lowest scores, by the fewest digits, in the words of a shell.
    assert second[1] == r"fastalign threshold 'm'\''s <script>.safetensors' 0.55 --image"
    assert second[4] == "visible"


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_threshold_can_be_tried_where_there_is_none(make_evaluation, gallery, tmp_path):
    evaluation = make_evaluation(4, threshold=None)
    stored, top, bottom, *_ = slide(evaluation, gallery, tmp_path)
    assert "0 of 4 are anomalies" in stored[0] and set(stored[2]) == {"unsure"}
    assert set(top[2]) == {"missed", "passed"} and set(bottom[2]) == {"found", "false alarm"}


def test_regions_are_marked_and_listed_by_their_peaks(make_evaluation, gallery):
    evaluation = make_evaluation(2, threshold=2.0)
    scores = np.zeros((24, 24), np.float32)
    scores[4:8, 6:12] = 5
    scores[5, 7] = 6
    scores[::2, 14::2] = 3
    regions = find_regions(scores, 2.0, (24, 48), theta=np.eye(2, 3))
    evaluation.images[1] = replace(evaluation.images[1], regions=regions)
    page = Page(render_report(evaluation, gallery))
    styles = [attributes["style"] for tag, attributes in page.tags if tag == "i" and attributes]
    boxes = [style for style in styles if "width" in style]
    # The photograph is twice as wide as high; the map's pixels are two wide in it.
    assert boxes[0] == "left:25.0%;top:16.667%;width:25.0%;height:16.667%"
    assert styles[1] == "left:31.25%;top:22.917%" and len(boxes) == MOST
    assert "3.00 × pixel threshold; 12 × 4 pixels, peak at 15, 6; 4.2 % of the part" in page.text
    assert f"and {len(regions) - MOST} regions with lower peaks" in page.text
    without, _ = marks(regions[:1], (48, 24), None)
    assert without[0].text.startswith("peak 6; ")
    named, _ = marks([replace(regions[0], roi="seal")], (48, 24), None)
    assert named[0].text == f"seal; {without[0].text}"
