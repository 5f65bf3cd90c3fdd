"""The model on small tensors: fitting, scoring, the frame of the maps, saving, resuming."""

import copy
import math
import warnings
from dataclasses import replace

import pytest
import torch

from fastalign import FYD, FYDConfig
from fastalign.drift.normal import Normal
from fastalign.engine.strangers import PartWatch
from fastalign.errors import CollapseWarning, ConfigError, InputError, RunawayWarpWarning
from fastalign.models.conditions import LIGHT, POSE, conditions_at
from fastalign.models.detail import Detail
from fastalign.models.evidence import NOT_FINITE, Evidence
from fastalign.models.fitting.watch import Watch, warn_of
from fastalign.models.record import FitRecord
from fastalign.ops import affine, warp_affine
from fastalign.storage import checkpoint as checkpoint_file
from fastalign.verdict import Verdict, judge

SIZE = 64
# More channels than images, and no more: their matrices are most of the time of so small a fit.
QUICK = {"image_size": (SIZE, SIZE), "epochs": 1, "batch_size": 4, "channels": 40}
# What a model of an earlier version is.
EARLIER = {"reduction": "draw", "channels": 12, "strides": (4, 8, 16), "prior": 0.0}
# Of poses, translations alone: a search for turns is most of the time of so small a fit.
SHIFTED = {**QUICK, "family": "translation"}


def part(defect: bool = False) -> torch.Tensor:
    """A plate without any symmetry on a darker ground; the defect is a white dot on it."""
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    image = torch.full((3, 256, 256), 0.25)
    image[:, (x > 70) & (x < 190) & (y > 84) & (y < 172)] = 0.6
    image[0, (x > 84) & (x < 104) & (y > 96) & (y < 160)] = 0.1
    image[2, ((x - 160) ** 2 + (y - 110) ** 2) < 200] = 0.95
    if defect:
        image[:, ((x - 140) ** 2 + (y - 146) ** 2) < 90] = 1.0
    return image


def photographs(number: int, degrees: float = 0, shift: float = 0, defect=False, seed: int = 0):
    """``number`` photographs ``[N,3,64,64]`` and theta by which each was moved ``[N,2,3]``."""
    generator = torch.Generator().manual_seed(seed)
    draw = 2 * torch.rand(number, 3, generator=generator) - 1
    bound = torch.tensor([math.radians(degrees), 2 * shift, 2 * shift])
    theta = affine.from_parameters(draw * bound, "rotation_translation")
    big = part(defect).expand(number, -1, -1, -1)
    moved = warp_affine(big, theta, padding_mode="border")
    small = torch.nn.functional.avg_pool2d(moved, 256 // SIZE)
    noise = 0.01 * torch.randn(small.shape, generator=generator)
    return (small + noise).clamp(0, 1), theta


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Equal names and bits; a threshold that both lack is NaN in both."""
    return one.keys() == other.keys() and all(
        torch.equal(one[name].nan_to_num(-1), other[name].nan_to_num(-1)) for name in one
    )


@pytest.fixture(scope="module")
def turned():
    """A model fitted on parts turned up to 40 degrees and shifted, and its validation images."""
    images, _ = photographs(12, 40, 0.08)
    validation, _ = photographs(4, 40, 0.08, seed=1)
    return FYD(**QUICK).fit(images, validation), images, validation


def test_scores_and_maps(turned):
    model, images, _ = turned
    score, maps = model(images[:3])
    assert score.shape == (3,) and maps.shape == (3, SIZE, SIZE) and maps.dtype == torch.float32
    assert score.isfinite().all() and not maps.isinf().any() and not (maps < 0).any()
    torch.testing.assert_close(score, maps.nan_to_num(0).amax((1, 2)))
    assert model.extra_metadata()["alignment"]["used"]


def test_another_part_is_known_by_its_whole_and_a_defect_is_not(turned):
    """Of a model of an earlier version, which asks for no pose."""
    images, validation = turned[1:]
    model = FYD(**{**QUICK, **EARLIER}, family="rotation_translation").fit(images, validation)
    model.record = replace(model.record, evidence=None)
    normal = model.record.normal_whole
    assert set(normal) == {"distance", "residual"}
    defects, _ = photographs(6, 40, 0.08, defect=True, seed=2)
    rings = 0.5 + 0.4 * torch.sin(torch.hypot(*torch.meshgrid(*[torch.arange(64.0) - 30] * 2)))
    other = (rings + 0.02 * torch.randn(2, 3, SIZE, SIZE)).clamp(0, 1)
    watch = PartWatch(model)
    for batch in (images[:4], defects):
        detail = model.predict_detail(batch)
        assert [watch.remark("own.png", detail, index) for index in range(len(batch))] == [
            ""
        ] * len(batch)
    detail = model.predict_detail(other)
    for index in range(2):
        assert watch.remark(f"{index}.png", detail, index).startswith("does not look like the part")
    assert len(watch.warnings()) == 1 and "2 images do not look" in watch.warnings()[0]
    # The score alone does not tell them apart from defects.
    assert (detail.score > model.image_threshold).all()


def test_how_normal_images_were_taken_is_kept_and_is_what_scoring_finds(turned):
    model, images, validation = turned
    kept = model.record.normal_conditions
    found = [
        conditions_at(model.predict_detail(image[None]), 0, model.aspect)
        for image in torch.cat([images, validation])
    ]
    assert {*LIGHT, *POSE, "coverage"} == set(kept)
    for name, one in kept.items():
        normal = Normal.from_record(one)
        values = sorted(normal.placed(values[name]) for values in found)
        assert normal.number == len(found) == 16
        assert normal.values == pytest.approx(values, rel=1e-3, abs=1e-3), name
    assert FitRecord.from_metadata(model.extra_metadata()).normal_conditions == kept


def test_a_defect_is_found_at_its_place_in_the_photograph(turned):
    model, _, validation = turned
    images, theta = photographs(6, 40, 0.08, defect=True, seed=2)
    score, maps = model(images)
    assert score.min() > model(validation)[0].max()
    assert (score > model.image_threshold).all()
    # Where the defect went: theta leads from the photograph to the part.
    place = torch.tensor([140.5, 146.5]) * 2 / 256 - 1
    back = affine.invert(theta)
    expected = (back[:, :, :2] @ place + back[:, :, 2] + 1) * SIZE / 2
    for index in range(len(images)):
        row, column = divmod(int(maps[index].nan_to_num(0).argmax()), SIZE)
        found = torch.tensor([column + 0.5, row + 0.5])
        assert (found - expected[index]).norm() < 4


def test_poses_are_recovered(turned):
    model, _, _ = turned
    images, theta = photographs(8, 40, 0.08, seed=3)
    # Photograph from part, part from aligned frame: the same for all images.
    joint = affine.magnitude(affine.compose(theta, model.align(images)))
    assert joint["rotation"].std() < 1.5
    assert joint["shift"].std() < 0.02


def test_what_lies_outside_the_aligned_frame_scores_nothing(turned):
    model, _, _ = turned
    far, _ = photographs(1)
    shifted = affine.from_parameters(torch.tensor([[0.6, 0.0]]), "translation")
    images = warp_affine(far, shifted, padding_mode="border")
    detail = model.predict_detail(images)
    assert not detail.valid.all()
    reached = affine.valid_mask(affine.invert(detail.theta), (SIZE, SIZE), (SIZE, SIZE), margin=-14)
    assert detail.map[~reached].isnan().all() and detail.map.isfinite().any()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_image_that_is_not_finite_is_not_judged_and_leaves_the_others_alone(turned, value):
    model, images, _ = turned
    batch = images[:4].clone()
    broken, others = batch.clone(), [0, 1, 3]
    broken[2, 1, 5, 7] = value
    score, maps = model(broken)
    assert score[2].isnan() and maps[2].isnan().all()
    assert torch.equal(score[others], model(batch)[0][others])
    assert torch.equal(maps[others].nan_to_num(-1), model(batch)[1][others].nan_to_num(-1))
    assert judge(score[2], model.image_threshold) is Verdict.UNSURE
    detail, whole = model.predict_detail(broken), model.predict_detail(batch)
    for name in set(Detail._fields) - {"valid", "aligned"}:
        found, expected = getattr(detail, name), getattr(whole, name)
        assert found[2].isnan().all(), name
        assert torch.equal(found[others].nan_to_num(-1), expected[others].nan_to_num(-1)), name
    assert not detail.valid[2].any() and detail.valid[others].any()
    assert model.align(broken)[2].isnan().all()


@pytest.mark.parametrize("name", ["gaussians.mean", "gaussians.whitener", "calibration"])
def test_a_model_of_numbers_that_are_none_judges_nothing(turned, name):
    model = copy.deepcopy(turned[0])
    height, width = model.density.size
    middle = height // 2 * width + width // 2
    state = model.density.state_dict()[name]
    (state[middle] if name == "gaussians.whitener" else state.flatten(-2)[..., middle]).fill_(
        math.nan
    )
    assert model(turned[1][:2])[0].isnan().all()


def test_an_image_of_which_alignment_leaves_nothing_is_not_judged(turned):
    model = turned[0]
    away = affine.from_parameters(torch.tensor([[8.0, 0.0], [0.0, 0.0]]), "translation")
    score, maps = model.maps(torch.ones(2, *model.density.size), away)
    assert maps[0].isnan().all() and maps[1].isfinite().all()
    assert score[0].isnan() and score[1] > 0


# What is asked of an image ------------------------------------------------------------------------


def shifted(images, by):
    """Moved to the side by a share of the width."""
    theta = affine.from_parameters(torch.tensor([[2 * by, 0.0]]), "translation")
    return warp_affine(images, theta.expand(len(images), -1, -1), padding_mode="border")


def test_normal_images_are_compared_with_the_mean_of_the_others(turned):
    """Whether the fold for each image in closed form is the mean without it."""
    model, images, validation = turned
    evidence = model.evidence
    assert evidence.coverage.images == evidence.residual.images == len(images) + len(validation)
    own = model.predict_detail(torch.cat([images, validation]))
    # Against a mean that they are part of they agree better.
    assert evidence.residual.most > float(own.residual_after.max()) - 1e-3
    assert evidence.coverage.least == pytest.approx(float(own.coverage.min()), abs=1e-3)
    assert own.score.isfinite().all()


def test_an_image_that_shows_less_of_the_part_is_unsure_and_says_how_much(turned):
    model, images, _ = turned
    image = shifted(images[:1], 0.3)
    detail = model.predict_detail(image)
    assert float(detail.coverage) < model.evidence.coverage.limit
    assert detail.score.isnan().all() and model(image)[0].isnan().all()
    reason = model.evidence.reason(detail, 0)
    assert f"covers {100 * float(detail.coverage):.0f} % of the part, normal photographs" in reason
    (scored,) = model.predict(image[0].permute(1, 2, 0).clamp(0, 1).numpy())
    assert scored.verdict is Verdict.UNSURE and "of the part" in scored.reason
    # Of what was seen there is a map.
    assert detail.map.isfinite().any() and detail.map.isnan().any()


def test_an_image_of_something_else_has_no_pose(turned):
    model = turned[0]
    rings = 0.5 + 0.4 * torch.sin(torch.hypot(*torch.meshgrid(*[torch.arange(64.0) - 30] * 2)))
    other = rings.expand(1, 3, 64, 64).contiguous()
    detail = model.predict_detail(other)
    assert detail.score.isnan().all()
    residual = float(detail.residual_after)
    assert residual > model.evidence.residual.limit
    most = model.evidence.residual.most
    said = f"pose not found: residual {residual:.2f}, normal photographs at most {most:.2f}"
    assert model.evidence.reason(detail, 0).startswith(said)
    # A file of an earlier version has no limit.
    older = copy.deepcopy(model)
    older.record = replace(model.record, evidence=None)
    score, judged = older(other)
    assert score.isfinite().all()
    # The map at the likeliest pose is there to look at, with a verdict or without.
    assert judged.isfinite().any() and torch.equal(judged.isnan(), detail.map.isnan())
    torch.testing.assert_close(detail.map, judged, equal_nan=True, rtol=0, atol=0)


def test_reasons_survive_the_file_and_name_what_is_not_finite(turned, tmp_path):
    model, images, _ = turned
    model.save(tmp_path / "m.safetensors")
    again = type(model).load(tmp_path / "m.safetensors")
    assert again.evidence == model.evidence
    broken = images[:2].clone()
    broken[1, 0, 3, 3] = math.inf
    detail = again.predict_detail(broken)
    assert [again.evidence.reason(detail, index) for index in (0, 1)] == ["", NOT_FINITE]


# What was done -----------------------------------------------------------------------------------


def test_detail_says_what_was_done(turned):
    model, images, _ = turned
    detail = model.predict_detail(images[:4])
    torch.testing.assert_close(detail.map, model(images[:4])[1], equal_nan=True)
    torch.testing.assert_close(detail.theta, model.align(images[:4]))
    assert detail.aligned.shape == (4, 3, SIZE, SIZE)
    assert (detail.residual_after < detail.residual_before).float().mean() >= 0.75
    found = affine.magnitude(detail.theta)
    for name in ("shift", "rotation", "scale"):
        torch.testing.assert_close(getattr(detail, name), found[name])


def test_scores_do_not_depend_on_the_batch(turned):
    model, images, _ = turned
    together = model(images[:4])[0]
    alone = torch.cat([model(image[None])[0] for image in images[:4]])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)


def test_saved_and_loaded_it_scores_the_same(turned, tmp_path):
    model, images, _ = turned
    model.save(tmp_path / "m.safetensors")
    again = FYD.load(tmp_path / "m.safetensors")
    assert torch.equal(model(images[:2])[1].nan_to_num(-1), again(images[:2])[1].nan_to_num(-1))
    assert again.extra_metadata()["alignment"] == model.extra_metadata()["alignment"]
    assert torch.equal(again.image_threshold, model.image_threshold)


@pytest.mark.parametrize(
    "options",
    [
        {"align": "none"},
        {"align": "ica", "family": "auto"},
        {"align": "ica", "teacher": False},
        {"align": "fca"},
        {"align": "fa"},
        {"align": "ica+fa", "refit": False},
        {"align": "all", "skip": False, "calibrate": False},
        {"align": "all", "teacher": False, "skip": False},
        {"align": "none", "channels": 0, "storage": "bfloat16"},
        {"family": "similarity", "skip": False},
    ],
    ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items()),
)
def test_every_choice_fits_scores_and_comes_back(options, tmp_path):
    images, _ = photographs(6, 10, 0.04)
    model = FYD(**{**SHIFTED, **options}).fit(images[:5], images[5:])
    parts = model.parts()
    wanted = FYDConfig(**{**SHIFTED, **options})
    assert parts["fa"] == wanted.uses("fa")
    if not wanted.skip:
        assert parts["fca"] == wanted.uses("fca")
        assert bool(parts["aligner"]) == (wanted.uses("ica") and wanted.teacher)
        assert parts["ica"] == (wanted.uses("ica") and not wanted.teacher)
    model.save(tmp_path / "m.safetensors")
    again = FYD.load(tmp_path / "m.safetensors")
    assert torch.equal(model(images)[1].nan_to_num(-1), again(images)[1].nan_to_num(-1))
    assert model(images)[0].isfinite().all() and model.image_threshold.isfinite()


def test_loaded_into_a_fitted_model_the_channels_are_those_of_the_state():
    images, _ = photographs(4)
    one, other = (FYD(**SHIFTED, align="none").fit(images, seed=seed) for seed in (0, 1))
    one.load_state_dict(other.state_dict())
    assert torch.equal(one(images)[1], other(images)[1])


def test_a_layer_inside_a_folded_pair_can_be_asked_for():
    images, _ = photographs(5, 10, 0.04)
    options = {**SHIFTED, "layers": ("conv_stem", "blocks.1"), "skip": False, "align": "ica"}
    model = FYD(**options).fit(images)
    assert model.parts()["aligner"] and model(images)[0].isfinite().all()


def test_parts_that_lie_still_are_not_aligned():
    images, _ = photographs(8)
    model = FYD(**SHIFTED, align="ica").fit(images)
    decision = model.extra_metadata()["alignment"]
    assert decision["used"] is False and "unexplained" in decision["reason"]
    assert torch.equal(model.align(images[:2]), affine.identity(2))
    assert model.evidence == Evidence() and model.record.evidence == {}


def test_one_image_is_enough_and_leaves_no_threshold():
    images, _ = photographs(1)
    model = FYD(**SHIFTED).fit([images[0]])
    assert model.image_threshold.isnan() and model.pixel_threshold.isnan()
    assert model(images)[0].abs().max() < 1e-3
    assert model(photographs(1, defect=True)[0])[0] > 10


def test_the_same_seed_gives_the_same_bits_and_another_seed_other_ones():
    images, _ = photographs(6, 10, 0.04)
    states = [FYD(**SHIFTED).fit(images, seed=seed).state_dict() for seed in (3, 3)]
    assert same(states[0], states[1])
    drawn = {**SHIFTED, "reduction": "draw", "channels": 12}
    states = [FYD(**drawn).fit(images, seed=seed).state_dict() for seed in (3, 4)]
    assert not torch.equal(states[0]["density.selection"], states[1]["density.selection"])


def test_fitting_does_not_touch_the_callers_random_numbers():
    images, _ = photographs(4)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    FYD(**SHIFTED).fit(images)
    assert torch.equal(torch.rand(3), expected)


def test_resumed_is_as_unbroken(tmp_path, monkeypatch):
    images, _ = photographs(6, 10, 0.04)
    options = {**SHIFTED, "epochs": 3}
    whole = FYD(**options).fit(images).state_dict()
    write, count = checkpoint_file.save_checkpoint, []

    def stop_after_two(*arguments):
        write(*arguments)
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_file, "save_checkpoint", stop_after_two)
    checkpoint = tmp_path / "c.ckpt"
    with pytest.raises(KeyboardInterrupt):
        FYD(**options).fit(images, checkpoint=checkpoint)
    monkeypatch.setattr(checkpoint_file, "save_checkpoint", write)
    resumed = FYD(**options).fit(images, checkpoint=checkpoint, resume=True).state_dict()
    assert same(whole, resumed)


def test_training_is_logged():
    class Log:
        def __init__(self):
            self.rows = []

        def start(self, stage, total): ...

        def advance(self, n=1): ...

        def log(self, values):
            self.rows.append(values)

        def note(self, text): ...

    images, _ = photographs(6, 10, 0.04)
    log = Log()
    model = FYD(**{**SHIFTED, "epochs": 2}, teacher=False).fit(images, progress=log)
    names = {"epoch", "loss_ica", "loss_fa", "std_of_z", "ica_shift", "ica_rotation", "fca_scale"}
    assert len(log.rows) == 2 and names <= set(log.rows[0])
    assert 0.3 < log.rows[0]["std_of_z"] <= 1
    assert model.extra_metadata()["training"] == log.rows


@pytest.mark.parametrize("where", ["bias", "weight"])
def test_collapse_and_a_runaway_warp_are_warned_of_by_name(where):
    images, _ = photographs(6)
    layer = FYD(**QUICK, teacher=False).pose.make_ica()
    with pytest.warns(CollapseWarning, match="collapsed"):
        warn_of({"std_of_z": 0.01}, {}, 0)
    watch = Watch(layer)
    layer.localise(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of({"std_of_z": 0.9}, {"ica": watch}, 0)
    with torch.no_grad():
        # The layer before the head ends in ReLU, so that one sign is enough.
        layer.localiser[-2].bias.fill_(1.0)
        getattr(layer.head, where).fill_(50.0)
    watch = Watch(layer)
    layer.localise(images)
    watch.end()
    with pytest.warns(RunawayWarpWarning, match="ica"):
        warn_of({}, {"ica": watch}, 0)


@pytest.mark.parametrize(
    ("images", "word"),
    [
        ([], "no images"),
        (torch.zeros(2, 3, 32, 32), "[3, 32, 32]"),
        (torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8), "uint8"),
        (torch.full((2, 3, SIZE, SIZE), 255.0), "outside 0..1"),
    ],
)
def test_training_images_that_cannot_be_used(images, word):
    with pytest.raises(InputError) as error:
        FYD(**QUICK).fit(images)
    assert word in str(error.value)


def test_images_to_score_of_another_shape(turned):
    with pytest.raises(ValueError, match=r"\[1, 3, 32, 32\]"):
        turned[0](torch.zeros(1, 3, 32, 32))


def test_not_fitted():
    with pytest.raises(ConfigError, match="not fitted"):
        FYD(**QUICK)(torch.zeros(1, 3, SIZE, SIZE))


def test_an_option_that_does_not_exist():
    with pytest.raises(ConfigError, match="no_such_option"):
        FYD(no_such_option=1)
