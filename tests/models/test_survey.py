"""What a fit finds out about its images first: nothing to learn, little to learn, twins."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fastalign import FYD
from fastalign.data import digest, glance
from fastalign.errors import ArtifactError, DataWarning, InputError
from fastalign.models.fitting.source import ImageSource
from fastalign.models.fitting.survey import Survey, few_images, look_at
from fastalign.models.fitting.thresholds import turns
from fastalign.models.known import KnownImages
from fastalign.models.progress import NoProgress
from fastalign.verdict import Verdict, judge

SIZE = 32
# More channels than images, and no more: their matrices are most of the time of so small a fit.
PLAIN: dict[str, Any] = {"image_size": SIZE, "align": "none", "sigma": 1.0, "channels": 40}


def parts(count: int, seed: int = 0) -> Tensor:
    """Two bars of varying length and brightness on grey ``[N,3,32,32]``, rounded to 8 bits."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.full((count, 3, SIZE, SIZE), 0.3)
    for image, (length, grey, shift) in zip(
        images, torch.rand(count, 3, generator=generator).tolist(), strict=True
    ):
        image[:, 11:15, 4 : 15 + int(12 * length)] = 0.6 + 0.3 * grey
        image[0, 11:28, 8 + int(4 * shift) : 13] = 0.55 + 0.2 * length
    images += 0.02 * torch.randn(images.shape, generator=generator)
    return images.clamp(0, 1).mul(255).round().div(255)


def noisy(images: Tensor, seed: int, levels: float = 1.0) -> Tensor:
    """Other frames of the same scenes, with noise of so many grey levels."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + levels / 255 * noise).clamp(0, 1).mul(255).round().div(255)


def survey(train: Tensor, validation: Tensor | None = None) -> Survey:
    size, device = (SIZE, SIZE), torch.device("cpu")
    held_out = None if validation is None else ImageSource(validation, size, device, "validation")
    return look_at(ImageSource(train, size, device), held_out, NoProgress())


# Nothing to learn from ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "word"),
    [
        (torch.zeros(5, 3, SIZE, SIZE), "show nothing"),
        (torch.linspace(0, 1, 5).view(-1, 1, 1, 1).expand(5, 3, SIZE, SIZE), "show nothing"),
        (noisy(torch.full((5, 3, SIZE, SIZE), 0.1), 0, 0.6), "show nothing"),
        (parts(1).expand(20, -1, -1, -1), "copies of one"),
    ],
    ids=["black", "plain greys", "a lens cap", "twenty copies"],
)
def test_images_without_content_or_difference_are_refused(images, word):
    with pytest.raises(InputError, match=word) as error:
        FYD(**PLAIN).fit(images)
    assert "training image 0, training image 1, training image 2 and" in str(error.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("kind", ["training", "validation"])
def test_images_that_are_not_finite_are_refused_with_their_number(value, kind):
    train, validation = parts(3), parts(2, 1)
    (train if kind == "training" else validation)[1, 0, 3, 4:6] = value
    with pytest.raises(InputError, match=f"{kind} image 1 has 2 of 3072 values NaN"):
        FYD(**PLAIN).fit(train, validation)


def test_one_part_that_lies_still_is_told_and_its_distances_hold():
    images = noisy(parts(1).expand(24, -1, -1, -1), 0)
    with pytest.warns(DataWarning, match="the 21 images to learn from hardly differ"):
        model = FYD(**PLAIN).fit(images[:21], images[21:])
    assert 0 < float(model.image_threshold) < math.inf
    fresh = noisy(parts(1).expand(10, -1, -1, -1), 1)
    defects = fresh.clone()
    defects[:, :, 20:26, 20:26] = 1.0
    good, bad = model(fresh)[0], model(defects)[0]
    assert (good > model.image_threshold).sum() <= 2
    assert all(judge(score, model.image_threshold) is Verdict.ANOMALY for score in bad)


def test_most_images_of_one_still_scene_are_told():
    still = noisy(parts(1).expand(15, -1, -1, -1), 0)
    (found,) = [
        text for text in survey(torch.cat([parts(5, 1), still])).warnings if "hardly" in text
    ]
    assert found.startswith("15 of 20 images to learn from hardly differ")
    assert "training image 5, training image 6" in found
    assert not any("hardly" in text for text in survey(torch.cat([parts(15), still[:5]])).warnings)


def test_some_images_without_content_are_named():
    images = torch.cat([parts(6), torch.zeros(2, 3, SIZE, SIZE)])
    (found,) = [text for text in survey(images).warnings if "single grey" in text]
    assert "2 of 8" in found and "training image 6, training image 7" in found


@pytest.mark.parametrize(("count", "expected"), [(3, True), (19, True), (20, False)])
def test_few_photographs_are_told_with_what_it_means(count, expected):
    text = few_images(count, 2)
    assert (text is not None) is expected
    if text is not None:
        assert f"{count} different images" in text and "defects may stay below" in text
    assert "thresholds" not in str(few_images(1, 0))


def test_what_is_told_is_kept_in_the_model():
    with pytest.warns(DataWarning, match="3 different images of good parts only, fewer than 20"):
        model = FYD(**PLAIN).fit(parts(2), parts(1, 1))
    (told,) = model.extra_metadata()["warnings"]
    assert "the thresholds rest on 3 scores" in told
    json.dumps(model.extra_metadata(), allow_nan=False)


# Twins --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [0.0, 1.0], ids=["copies", "frames"])
@pytest.mark.parametrize("validation", [3, 20], ids=["in turn", "held out"])
def test_each_photograph_twice_gives_the_thresholds_of_each_once(levels, validation):
    """Far above what twins on both sides give: the rounding of a copy, or the noise of a frame."""
    train, held_out = parts(24, 1), parts(validation, 2)
    once = FYD(**PLAIN).fit(train, held_out)
    with pytest.warns(DataWarning, match=f"{24 + validation} of {48 + 2 * validation} images are"):
        twice = FYD(**PLAIN).fit(*(torch.cat([x, noisy(x, 5, levels)]) for x in (train, held_out)))
    assert float(twice.image_threshold) == pytest.approx(float(once.image_threshold), rel=0.15)


def test_validation_images_that_were_trained_on_have_no_part_in_the_thresholds():
    train, held_out = parts(24, 1), parts(24, 2)
    alone = FYD(**PLAIN, refit=False).fit(train, held_out)
    mixed = FYD(**PLAIN, refit=False).fit(train, torch.cat([train[:8], held_out]))
    torch.testing.assert_close(mixed.image_threshold, alone.image_threshold)
    none = FYD(**PLAIN, refit=False).fit(train, train[:8])
    assert none.image_threshold.isnan()


def test_who_takes_turns():
    alone = survey(parts(30, 1), parts(19, 2))
    assert turns(alone, True) == list(range(49)) and turns(alone, False) == []
    assert turns(survey(parts(30, 1), parts(20, 2)), True) == []
    frames = torch.cat([noisy(parts(10, 2), seed) for seed in range(4)])
    few = turns(survey(parts(30, 1), frames), True)
    assert few[:30] == list(range(30)) and len(few) == 49 and max(few) == 69
    same = survey(parts(1), noisy(parts(1), 1))
    assert same.distinct() == 2 and turns(survey(parts(1), parts(1)), True) == []


# Known again --------------------------------------------------------------------------------------


def test_images_are_known_again_by_the_record():
    train, validation = parts(12, 1), parts(4, 2)
    record = json.loads(json.dumps(survey(train, validation).known.record()))
    others = torch.cat([noisy(train[5:6], 0), validation[2:3], parts(6, 3)])
    # A file of an earlier version has no digests, and knows images by their small pictures.
    for version, same in ((record, True), ({**record, "digests": None}, False)):
        known = KnownImages.from_record(version)
        assert [known.find(digest(image), glance(image[None])) for image in others] == [
            ("training image 5", False),
            ("validation image 2", same),
            *[None] * 6,
        ]


def test_copies_are_named_apart_from_what_is_nearly_one():
    images = torch.cat([parts(8, 1), parts(8, 1)[2:4], noisy(parts(8, 1)[5:6], 0)])
    copies, nearly = survey(images).warnings
    assert copies.startswith(
        "2 of 11 images are copies of others, pixel by pixel: training image 2"
    )
    assert "training image 3 = training image 9" in copies
    assert (
        nearly.startswith("1 of 11 images is nearly what others show")
        and "5 = training image 10" in nearly
    )


def test_images_that_are_no_tensors_are_named():
    with pytest.raises(InputError, match="training image 0 is of type ndarray, expected a tensor"):
        FYD(**PLAIN).fit(parts(2).numpy())


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan])
def test_a_file_whose_calibration_makes_defects_good_is_refused(factor, tmp_path):
    with pytest.warns(DataWarning):
        model = FYD(**PLAIN).fit(parts(3))
    model.density.calibration[1, 2] = factor
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match="calibration has factors that are not above 0"):
        FYD.load(tmp_path / "model.safetensors")
