"""A model whose features are directions that all channels make up (``reduction="whiten"``)."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastalign import FYD
from fastalign.models.pieces import split_rows
from fastalign.models.stored_density import packed, unpacked
from fastalign.roi import RegionsOfInterest

OPTIONS: dict[str, Any] = {
    "image_size": 32,
    "align": "fa",
    "channels": 8,
    "sigma": 1.0,
    "epochs": 1,
    "batch_size": 4,
}


def photographs(count: int, seed: int = 0) -> Tensor:
    """A bright bar on grey, with noise that neighbouring pixels share."""
    generator = torch.Generator().manual_seed(seed)
    part = torch.full((count, 3, 32, 32), 0.3)
    part[:, :, 10:16, 6:26] = 0.8
    noise = torch.randn(count, 3, 8, 8, generator=generator)
    return (part + 0.1 * F.interpolate(noise, (32, 32), mode="bilinear")).clamp(0, 1)


@pytest.fixture(scope="module")
def whitened() -> FYD:
    return FYD(**OPTIONS).fit(photographs(8))


def test_features_are_sums_over_all_channels_with_what_fine_alignment_learned(whitened):
    model = copy.deepcopy(whitened)
    features, density = model.features, model.density
    for adapter in features.adapters:
        torch.nn.init.normal_(adapter.weight, std=0.1)
    model.rooms.settle()
    images = photographs(3, seed=1)
    with torch.no_grad():
        every = [
            F.interpolate(stage, density.size, mode="bilinear", align_corners=False)
            for stage in features.adapt(features.backbone(images))[1:]
        ]
        expected = torch.einsum("nc,bchw->bnhw", density.directions, torch.cat(every, 1))
        given = features(images).stages
        found = density.describe(given)
        rows = [density.describe(given, rows) for rows in split_rows(density.size[0], 3)]
    assert [stage.shape[1] for stage in given] == [0, 8, 8]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat(rows, 2), expected, rtol=1e-4, atol=1e-4)


def test_normal_variation_is_of_unit_size_in_all_directions(whitened):
    """But for what the ridge takes of those in which little varies."""
    images = photographs(8)
    with torch.no_grad():
        found = whitened.density.describe(whitened.features(images).stages)
    assert found.shape[1] == 8
    variances = found.var(0).mean((1, 2))
    assert float(variances.max()) < 1.5


def test_the_seed_draws_no_channels():
    options = {**OPTIONS, "align": "none"}
    images, others = photographs(8), photographs(2, seed=1)
    one, other = (FYD(**options).fit(images, seed=seed)(others)[0] for seed in (0, 1))
    assert torch.equal(one, other)
    drawn = {**options, "reduction": "draw"}
    one, other = (FYD(**drawn).fit(images, seed=seed)(others)[0] for seed in (0, 1))
    assert not torch.equal(one, other)


def test_it_comes_back_as_it_was(whitened, tmp_path):
    path = tmp_path / "model.fyd"
    whitened.save(path)
    images = photographs(2, seed=1)
    restored = [
        FYD.load(path),
        FYD.load(path, mapped=True),
        FYD.from_state(whitened.config, whitened.state_dict(), whitened.extra_metadata()),
    ]
    for model in restored:
        assert model.config == whitened.config
        for one, other in zip(model(images), whitened(images), strict=True):
            assert torch.equal(one, other)


def test_directions_in_8_bits_are_half_of_the_file_and_the_same_scores(tmp_path):
    images, sizes, scores = photographs(8), {}, {}
    for kept in ("int8", "float16"):
        model = FYD(**{**OPTIONS, "channels": 64}, storage=kept).fit(images)
        path = tmp_path / f"{kept}.fyd"
        model.save(path)
        sizes[kept] = path.stat().st_size
        again = FYD.load(path)
        given = photographs(4, seed=3)
        scores[kept] = model(given)[0]
        assert torch.equal(model.density.gaussians.whitener, again.density.gaussians.whitener)
        assert torch.equal(scores[kept], again(given)[0])
        again.save(tmp_path / "again.fyd")
        assert (tmp_path / "again.fyd").read_bytes() == path.read_bytes()
    rows = model.density.gaussians.whitener
    # A byte less for each number, and two for the scale of each row; names and shapes beside it.
    expected = rows.numel() - 2 * rows[..., 0].numel()
    assert abs(sizes["float16"] - sizes["int8"] - expected) < 400
    torch.testing.assert_close(scores["int8"], scores["float16"], rtol=5e-3, atol=0)


def test_a_file_without_the_scales_of_its_directions_is_refused(whitened, tmp_path):
    tensors = unpacked(packed({"gaussians.whitener": whitened.density.gaussians.whitener}))
    assert torch.equal(tensors["gaussians.whitener"], whitened.density.gaussians.whitener)
    half = packed(tensors)
    del half["gaussians.whitener_scales"]
    with pytest.raises(KeyError, match="whitener_scales"):
        unpacked(half)


def test_fitting_again_forgets_the_directions(whitened):
    """Of other images, and of a fit without."""
    images = photographs(8, seed=2) ** 2
    again = FYD(**OPTIONS).fit(photographs(8)).fit(images)
    fresh = FYD(**OPTIONS).fit(images)
    assert torch.equal(again.density.directions, fresh.density.directions)
    assert torch.equal(again(images)[0], fresh(images)[0])
    assert not torch.equal(again.density.directions, whitened.density.directions)


def test_a_defect_stands_out():
    whitened = FYD(**{**OPTIONS, "channels": 0}).fit(photographs(8))
    good = photographs(4, seed=3)
    bad = good.clone()
    bad[:, :, 18:28, 16:26] = 0.0
    assert float(whitened(bad)[0].min()) > 1.1 * float(whitened(good)[0].max())


def test_all_directions_where_none_are_asked_for():
    model = FYD(**{**OPTIONS, "channels": 0, "align": "none"}).fit(photographs(6))
    total = sum(model.features.channels[1:])
    assert model.density.directions.shape == (total, total)
    assert bool(model(photographs(2, seed=1))[0].isfinite().all())


def test_a_score_can_be_the_mean_of_the_largest_share_of_a_map(tmp_path):
    """With a threshold of its own, and one of pixels from the largest values."""
    images, others = photographs(24), photographs(3, seed=1)
    options = {**OPTIONS, "channels": 0, "align": "none"}
    plain = FYD(**options).fit(images[:20], images[20:])
    model = FYD(**options, top_share=0.05).fit(images[:20], images[20:])
    score, maps = model(others)
    assert torch.equal(maps, plain(others)[1])
    number = int(0.05 * 32 * 32)
    torch.testing.assert_close(score, maps.flatten(1).topk(number, 1).values.mean(1))
    assert model.image_threshold < model.pixel_threshold == plain.pixel_threshold
    assert "of the largest values of the maps" in str(model.record.pixel_threshold_source)
    model.save(tmp_path / "m.fyd")
    assert torch.equal(FYD.load(tmp_path / "m.fyd")(others)[0], score)
    labels = np.zeros((32, 32), np.uint8)
    labels[:16], labels[16:] = 1, 2
    model.set_roi(RegionsOfInterest(("upper", "lower"), labels))
    detail = model.predict_detail(others)
    half = detail.map[:, :16].flatten(1).topk(int(0.05 * 512), 1).values.mean(1)
    torch.testing.assert_close(detail.regions[:, 0], half)
    assert torch.equal(detail.score, detail.regions.amax(1))
