from types import SimpleNamespace

import numpy as np
import pytest

from fastalign.engine.predict import predict_paths
from fastalign.engine.shapes import ShapeWatch

USUAL = {"typical": "60 x 40", "width": [60, 66], "aspect": [1.5, 1.5]}


@pytest.mark.parametrize(
    ("height", "width", "word"),
    [
        (40, 60, ""),
        (41, 61, ""),
        (40, 70, "another shape, squeezed to fit: 70 x 40 pixels, training photographs 60 x 40"),
        (60, 40, "another shape"),
        (80, 120, "another size: 120 x 80"),
        (20, 30, "another size"),
    ],
)
def test_what_is_said_of_a_photograph_of_another_shape_or_size(height, width, word):
    watch = ShapeWatch(SimpleNamespace(extra_metadata=lambda: {"photographs": USUAL}))
    remark = watch.remark("a.png", np.zeros((height, width, 3), np.uint8))
    assert remark.startswith(word) and bool(remark) == bool(word)
    assert len(watch.warnings()) == bool(word)
    assert all("1 image of another" in text and "a.png" in text for text in watch.warnings())


def test_it_stands_in_the_row_and_among_the_warnings(tmp_path, model, make_photo, save_image):
    model.extra_metadata = lambda: {"photographs": USUAL}
    save_image(tmp_path / "in" / "a.png", make_photo(40, 60))
    save_image(tmp_path / "in" / "b.png", make_photo(40, 90))
    result = predict_paths(model, tmp_path / "in", tmp_path / "out", outputs=(), gallery_images=0)
    assert [bool(item.reason) for item in result.images] == [False, True]
    assert any("1 image of another shape" in text for text in result.warnings)
