from types import SimpleNamespace

import pytest
import torch

from fastalign.engine.predict import predict_paths
from fastalign.engine.strangers import PartWatch
from fastalign.models.whole import whole_distance

NORMAL = {"distance": 2.0, "residual": 0.2}


def detail_of(distance, residual):
    return SimpleNamespace(
        map=torch.full((1, 4, 4), distance), residual_after=torch.tensor([residual])
    )


def watch_of(normal):
    return PartWatch(SimpleNamespace(extra_metadata=lambda: {"normal_whole": normal}))


@pytest.mark.parametrize("sides", [(20, 30), (300, 70)])
def test_the_whole_of_an_image_is_its_most_ordinary_tenth(sides):
    maps = torch.full((3, *sides), 1.0)
    # A defect over most of the image, nothing of it ordinary, and an image that was not judged.
    maps[0, :, : int(0.8 * sides[1])] = 50.0
    maps[1] = 50.0
    maps[2] = torch.nan
    found = whole_distance(maps)
    assert found[:2].tolist() == [1.0, 50.0] and found[2].isnan()


def test_places_without_evidence_say_nothing():
    maps = torch.full((1, 10, 10), torch.nan)
    maps[:, 4:] = 3.0
    assert whole_distance(maps).item() == 3.0


@pytest.mark.parametrize(
    ("distance", "residual", "normal", "start"),
    [
        (2.3, 0.9, NORMAL, ""),
        (2.5, 0.9, NORMAL, "does not look like the part"),
        (2.5, 0.23, NORMAL, "photographed otherwise"),
        (2.5, float("nan"), NORMAL, "does not look like the part"),
        (2.5, float("nan"), {"distance": 2.0}, "does not look like the part"),
        (float("nan"), 0.9, NORMAL, ""),
        (99.0, 0.9, None, ""),
    ],
)
def test_what_is_said_of_a_photograph_that_is_far_as_a_whole(distance, residual, normal, start):
    watch = watch_of(normal)
    remark = watch.remark("a.png", detail_of(distance, residual), 0)
    assert remark.startswith(start) and bool(remark) == bool(start)
    assert len(watch.warnings()) == bool(start)
    assert all("a.png" in text and text.startswith("1 image ") for text in watch.warnings())


def test_it_stands_beside_a_verdict_that_stays(tmp_path, model, make_photo, save_image):
    model.extra_metadata = lambda: {"normal_whole": {"distance": 0.1}}
    save_image(tmp_path / "in" / "other.png", make_photo() // 2 + 128)
    result = predict_paths(model, tmp_path / "in", tmp_path / "out", outputs=())
    (item,) = result.images
    assert item.reason.startswith("does not look like the part") and item.label == "good"
    assert item.reason in (tmp_path / "out/report.html").read_text()
    assert any("1 image does not look" in text for text in result.warnings)
