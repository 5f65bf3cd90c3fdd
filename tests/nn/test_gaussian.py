"""DenseGaussian against the definition, computed per location in float64."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastalign.errors import ConfigError
from fastalign.nn import DenseGaussian, moments

C, H, W = 5, 3, 4


def images(count: int, *, mean: float = 0.0, channels: int = C) -> Tensor:
    """Correlated features [count,channels,H,W], another distribution at each location."""
    values = torch.randn(count, channels, H, W, dtype=torch.float64)
    values += 0.5 * values.roll(1, 1) + torch.arange(H * W).view(H, W)
    return (values + mean).float()


def definition(
    features: Tensor, valid: Tensor | None = None, shrinkage: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Means [H*W,C] and covariances [H*W,C,C] from all images at once; 0 and I without any."""
    channels = features.shape[1]
    means, covariances = [], []
    for row, column in itertools.product(range(features.shape[2]), range(features.shape[3])):
        values = features[:, :, row, column].double()
        if valid is not None:
            values = values[valid[:, row, column]]
        mean = values.sum(0) / max(1, len(values))
        deviations = values - mean
        covariance = deviations.T @ deviations / max(1, len(values) - 1)
        means.append(mean)
        covariances.append(covariance + (shrinkage if len(values) else 1) * torch.eye(channels))
    return torch.stack(means), torch.stack(covariances)


def distance(query: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    batch, channels, height, width = query.shape
    deviation = query.double().permute(0, 2, 3, 1).reshape(batch, -1, channels) - mean
    squared = torch.einsum("bnc,ncd,bnd->bn", deviation, torch.linalg.inv(covariance), deviation)
    return squared.sqrt().view(batch, height, width)


def covariances(fitted: DenseGaussian) -> Tensor:
    """What the packed whiteners stand for: [H*W,C,C] in float64; I without support."""
    row, column = torch.tril_indices(fitted.channels, fitted.channels)
    factor = torch.zeros(len(fitted.whitener), fitted.channels, fitted.channels).double()
    factor[:, row, column] = fitted.whitener.double()
    without = ~fitted.support.flatten()
    assert not factor[without].any()
    factor[without] = torch.eye(fitted.channels).double()
    return torch.linalg.inv(factor.mT @ factor)


def fit(features: Tensor, valid: Tensor | None = None, **options) -> DenseGaussian:
    size = tuple(features.shape[2:])
    return DenseGaussian(features.shape[1], size, **options).update(features, valid).finalize()


def assert_fits(fitted: DenseGaussian, mean: Tensor, covariance: Tensor, rtol: float = 1e-4):
    scale = covariance.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]
    error = (covariances(fitted) - covariance).abs() / scale
    assert error.max() <= rtol
    given = fitted.mean.flatten(1).T.double()
    torch.testing.assert_close(given, mean, rtol=1e-6, atol=1e-6)


# Fitting -------------------------------------------------------------------------------------


def test_means_covariances_counts_and_distances_are_those_of_the_definition():
    features, query = images(30), images(4)
    fitted = fit(features)
    mean, covariance = definition(features)
    assert_fits(fitted, mean, covariance)
    assert torch.equal(fitted.count, torch.full((H, W), 30))
    expected = distance(query, mean, covariance)
    torch.testing.assert_close(fitted(query).double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("channels", "size"), [(1, (1, 1)), (1, (3, 2)), (2, (1, 5)), (7, (1, 1)), (16, (2, 2))]
)
def test_small_and_odd_sizes(channels, size):
    features = torch.randn(9, channels, *size)
    assert_fits(fit(features), *definition(features))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_floating_point_dtype_counts_as_what_it_says(dtype):
    features = images(12).to(dtype)
    assert_fits(fit(features), *definition(features))


def test_float64_features_are_not_rounded_before_their_mean_is_gone():
    features = torch.randn(20, C, H, W, dtype=torch.float64) + 1e9
    assert_fits(fit(features), *definition(features), rtol=1e-5)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2),
        lambda x: x.repeat_interleave(2, 1)[:, ::2],
        lambda x: x.repeat_interleave(2, 3)[..., ::2],
        lambda x: x[:1].expand(len(x), -1, -1, -1),
    ],
    ids=["channels_last", "transposed", "every other channel", "every other column", "expanded"],
)
def test_any_strides(view):
    features = view(images(8))
    assert_fits(fit(features), *definition(features))


@pytest.mark.parametrize("sizes", [(24,), (1,) * 24, (1, 23), (23, 1), (5, 0, 7, 12)])
def test_the_split_into_batches_does_not_matter(sizes):
    features, valid = images(24, mean=50), torch.rand(24, H, W) > 0.3
    model = DenseGaussian(C, (H, W))
    for batch, mask in zip(features.split(sizes), valid.split(sizes), strict=True):
        model.update(batch, mask)
    assert_fits(model.finalize(), *definition(features, valid), rtol=1e-5)
    assert torch.equal(model.count, valid.sum(0))


@pytest.mark.parametrize("sizes", [(16,) * 20, (1,) * 320, (319, 1)])
def test_a_large_mean_costs_no_accuracy(sizes):
    """Sums of raw outer products would be off by more than the covariance itself."""
    features = torch.randn(320, C, 1, 2) + 1e4
    model = DenseGaussian(C, (1, 2))
    for batch in features.split(sizes):
        model.update(batch)
    mean, covariance = definition(features)
    assert (covariances(model.finalize()) - covariance).abs().max() < 1e-5
    torch.testing.assert_close(model.mean.flatten(1).T.double(), mean, rtol=1e-7, atol=0)


def test_a_mean_that_drifts_is_followed():
    """The first batch lies far from the rest."""
    features = torch.cat((images(4, mean=-1e3), images(60, mean=1e3)))
    model = DenseGaussian(C, (H, W))
    for batch in features.split(4):
        model.update(batch)
    assert_fits(model.finalize(), *definition(features), rtol=1e-6)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -1e30])
def test_invalid_locations_do_not_count_whatever_lies_there(garbage):
    features, valid = images(20), torch.rand(20, H, W) > 0.4
    valid[:, 0, 0] = False
    valid[:, 0, 1] = torch.arange(20) == 7
    dirty = torch.where(valid.unsqueeze(1), features, garbage)
    model = DenseGaussian(C, (H, W))
    for batch, mask in zip(dirty.split(6), valid.split(6), strict=True):
        model.update(batch, mask)
    mean, covariance = definition(features, valid)
    assert_fits(model.finalize(), mean, covariance)
    assert torch.equal(model.count, valid.sum(0))
    query = images(3)
    expected = distance(query, mean, covariance)
    expected[:, 0, 0] = 0
    torch.testing.assert_close(model(query).double(), expected, rtol=1e-4, atol=0)


def test_an_all_true_mask_changes_nothing():
    features = images(10)
    masked = fit(features, torch.ones(10, H, W, dtype=torch.bool))
    assert torch.equal(masked.whitener, fit(features).whitener)


def test_one_image_is_legal_and_its_covariance_is_the_shrinkage():
    image = images(1, mean=300)
    fitted = fit(image, shrinkage=0.04)
    query = image + torch.randn_like(image)
    expected = (query - image).norm(dim=1) / 0.2
    torch.testing.assert_close(fitted(query), expected)
    assert torch.equal(fitted(image), torch.zeros(1, H, W))


@pytest.mark.parametrize("count", [2, 3])
def test_the_divisor_is_one_less_than_the_images(count):
    features = images(count)
    assert_fits(fit(features), *definition(features))


def test_an_empty_batch_adds_nothing():
    features = images(6)
    model = DenseGaussian(C, (H, W)).update(features[:0]).update(features).update(features[:0])
    assert torch.equal(model.finalize().whitener, fit(features).whitener)


def test_the_features_are_left_as_they_are():
    features, valid = images(6), torch.rand(6, H, W) > 0.5
    before = features.clone(), valid.clone()
    DenseGaussian(C, (H, W)).update(features, valid)
    assert torch.equal(features, before[0]) and torch.equal(valid, before[1])


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.enable_grad])
def test_the_mode_of_the_caller_does_not_matter(mode):
    """Above all: what was fitted in inference mode can be scored against with gradients."""
    features = images(8).requires_grad_()
    with mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        model = DenseGaussian(C, (H, W)).update(features * 1).finalize()
    assert torch.equal(model.whitener, fit(features.detach()).whitener)
    assert not model.whitener.requires_grad
    model(features + 1).sum().backward()
    assert features.grad.isfinite().all()


# Memory --------------------------------------------------------------------------------------


class LargestAllocation(TorchDispatchMode):
    """The bytes of the largest storage that an operator makes."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.largest = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.known:
                    self.largest = max(self.largest, storage.nbytes())
        return result


def held(model: DenseGaussian) -> int:
    return len(pickle.dumps(model))


def test_memory_does_not_depend_on_the_number_of_images():
    model = DenseGaussian(C, (H, W)).update(images(1))
    before = held(model)
    for _ in range(5):
        model.update(images(50))
    assert held(model) == before


def test_temporary_memory_is_bounded(monkeypatch):
    """Nothing of the size of the features or of the packed triangles, let alone the full ones."""
    budget = 1 << 14
    monkeypatch.setattr(moments, "_CPU_ENTRIES", budget)
    features = torch.randn(8, 16, 32, 32)
    valid = torch.rand(8, 32, 32) > 0.5
    model, other = (DenseGaussian(16, (32, 32)).update(features[:1]) for _ in range(2))
    sums = [
        tensor
        for one in (model, other)
        for tensor in (one._sums.count, one._sums.mean, one._sums.outer)
    ]
    with LargestAllocation(features, valid, *sums) as update:
        model.update(features, valid)
        model.merge(other)
    assert update.largest <= 8 * budget < 4 * features.numel()
    with LargestAllocation(*sums) as finalize:
        model.finalize()
    # At most the whiteners themselves; native ones take the place of the sums.
    in_place = moments.runs_native("whiten_", features)
    assert finalize.largest <= (8 * budget if in_place else 4 * model.whitener.numel())


def test_the_length_of_the_runs_does_not_matter(monkeypatch):
    features, valid, query = images(12), torch.rand(12, H, W) > 0.2, images(2)
    whole = fit(features, valid)
    halves = [DenseGaussian(C, (H, W)).update(part) for part in features.split(6)]
    merged = halves[0].merge(halves[1]).finalize()
    for entries in (1, 5 * C * C, 14 * C * C):
        monkeypatch.setattr(moments, "_CPU_ENTRIES", entries)
        pieces = fit(features, valid)
        torch.testing.assert_close(pieces.whitener, whole.whitener)
        torch.testing.assert_close(pieces(query), whole(query))
        halves = [DenseGaussian(C, (H, W)).update(part) for part in features.split(6)]
        again = halves[0].merge(halves[1]).finalize()
        torch.testing.assert_close(again.whitener, merged.whitener)


def test_the_sums_are_freed_unless_kept():
    features = images(8)
    fitted = DenseGaussian(C, (H, W)).update(features)
    accumulating = held(fitted)
    fitted.finalize()
    # The packed triangles of the sums have made room for those of the whitener.
    assert held(fitted) < accumulating
    for action in (
        lambda: fitted.update(features),
        lambda: fitted.merge(DenseGaussian(C, (H, W)).update(features)),
        lambda: DenseGaussian(C, (H, W)).merge(fitted),
        fitted.finalize,
    ):
        with pytest.raises(ConfigError, match=r"sums are gone.*finalize\(keep=True\).*reset\(\)"):
            action()


def test_keeping_the_sums_lets_the_fit_go_on():
    features = images(20)
    model = DenseGaussian(C, (H, W)).update(features[:9]).finalize(keep=True)
    early = fit(features[:9])
    assert torch.equal(model.whitener, early.whitener)
    model.update(features[9:])
    # Until it is finalized again it is what it was.
    assert torch.equal(model(features), early(features))
    assert torch.equal(model.count, early.count)
    assert_fits(model.finalize(), *definition(features))


def test_reset_begins_anew():
    model = fit(images(5)).reset()
    assert not model.fitted and not model.state_dict()
    features = images(9)
    assert torch.equal(model.update(features).finalize().whitener, fit(features).whitener)


# Merging -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_fits_merge_in_any_order(order):
    features, valid = images(23, mean=200), torch.rand(23, H, W) > 0.3
    parts = [
        DenseGaussian(C, (H, W)).update(batch, mask)
        for batch, mask in zip(features.split((15, 1, 7)), valid.split((15, 1, 7)), strict=True)
    ]
    left = DenseGaussian(C, (H, W))
    for index in order:
        left.merge(parts[index])
    expected = definition(features, valid)
    assert_fits(left.finalize(), *expected, rtol=1e-5)
    # And as a tree: the last into the middle one, both into the first.
    first, middle, last = (parts[index] for index in order)
    assert_fits(first.merge(middle.merge(last)).finalize(), *expected, rtol=1e-5)
    assert torch.equal(first.count, valid.sum(0))


def test_empty_ones_merge_without_effect():
    features = images(6)
    model = DenseGaussian(C, (H, W)).merge(DenseGaussian(C, (H, W))).update(features)
    model.merge(DenseGaussian(C, (H, W))).merge(DenseGaussian(C, (H, W)).update(features[:0]))
    assert torch.equal(model.finalize().whitener, fit(features).whitener)


def test_merging_leaves_the_other_one_alone():
    features = images(12)
    model = DenseGaussian(C, (H, W)).update(features[:4])
    other = DenseGaussian(C, (H, W)).update(features[4:])
    before = copy.deepcopy(other)
    model.merge(other)
    assert torch.equal(other.finalize().whitener, before.finalize().whitener)


def test_merging_with_itself_doubles_every_image():
    features = images(7)
    model = DenseGaussian(C, (H, W)).update(features)
    assert_fits(model.merge(model).finalize(), *definition(features.repeat(2, 1, 1, 1)))


@pytest.mark.parametrize("other", [(C + 1, (H, W)), (C, (W, H)), (C, (H, W + 1))])
def test_only_the_same_channels_and_size_merge(other):
    model = DenseGaussian(C, (H, W)).update(images(2))
    with pytest.raises(ConfigError, match=rf"{other[0]} channels and size \({other[1][0]}, "):
        model.merge(DenseGaussian(*other))


# Finalizing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, C - 1, C])
def test_few_images_without_shrinkage_are_an_error_that_can_be_mended(count):
    features = images(count)
    model = DenseGaussian(C, (H, W), shrinkage=0).update(features)
    with pytest.raises(
        ConfigError, match=rf"not positive definite at {H * W} of {H * W}.*{count} images.*shrink"
    ):
        model.finalize()
    assert not model.fitted
    model.shrinkage = 0.01
    assert_fits(model.finalize(), *definition(features))


def test_enough_images_need_no_shrinkage():
    features = images(40)
    fitted = fit(features, shrinkage=0)
    assert_fits(fitted, *definition(features, shrinkage=0))


@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_channels_that_repeat_another_one_are_singular(mean):
    """The pivot is rounding, of either sign, and must not be taken for a variance."""
    features = images(40, mean=mean)
    features[:, 3] = features[:, 1]
    features[:, 3, 0, 0] += torch.randn(40)
    with pytest.raises(ConfigError, match=rf"at {H * W - 1} of {H * W} .*row 0, column 1, 40 im"):
        fit(features, shrinkage=0)
    assert_fits(fit(features), *definition(features))


def test_the_first_location_in_the_message_is_a_row_and_a_column():
    features, valid = images(30), torch.ones(30, H, W, dtype=torch.bool)
    valid[3:, 2, 1] = False
    with pytest.raises(ConfigError, match=r"at 1 of 12 locations \(the first: row 2, column 1, 3 "):
        fit(features, valid, shrinkage=0)


def test_nothing_to_finalize():
    with pytest.raises(ConfigError, match=r"before any image.*update\(features\)"):
        DenseGaussian(C, (H, W)).finalize()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e25])
def test_valid_features_without_a_usable_value_are_an_error(value):
    features = images(4)
    features[1, 2, 1, 1] = value
    model = DenseGaussian(C, (H, W)).update(features)
    with pytest.raises(ValueError, match=r"NaN, infinite or too large to square at 1 of 12"):
        model.finalize()


def test_a_whitener_beyond_the_storage_is_an_error():
    model = DenseGaussian(C, (H, W), shrinkage=1e-12, storage=torch.float16).update(images(1))
    with pytest.raises(ConfigError, match=r"range of torch\.float16 with shrinkage=1e-12"):
        model.finalize()
    model.storage = torch.bfloat16
    assert model.finalize().fitted


# Support -------------------------------------------------------------------------------------


def test_locations_with_too_few_images_have_no_support_and_distance_0():
    features, valid = images(9), torch.ones(9, H, W, dtype=torch.bool)
    for location, count in enumerate(range(H * W)):
        valid[count:, location // W, location % W] = False
    fitted = fit(features, valid, min_count=4)
    assert torch.equal(fitted.support, valid.sum(0) >= 4)
    query = images(3)
    query[:, :, ~fitted.support] = float("nan")
    query.requires_grad_()
    scores = fitted(query)
    assert torch.equal(scores == 0, ~fitted.support.expand(3, -1, -1))
    mean, covariance = definition(features, valid)
    expected = distance(query.detach(), mean, covariance)[:, fitted.support]
    torch.testing.assert_close(scores[:, fitted.support].double(), expected, rtol=1e-4, atol=0)
    scores.sum().backward()
    assert query.grad.isfinite().all()
    assert torch.equal(query.grad.any(1), fitted.support.expand(3, -1, -1))


def test_a_singular_covariance_without_support_is_no_error():
    features, valid = images(30), torch.ones(30, H, W, dtype=torch.bool)
    valid[2:, 1] = False
    fitted = fit(features, valid, shrinkage=0, min_count=3)
    assert torch.equal(fitted.support, valid.sum(0) >= 3)
    assert fitted.whitener.isfinite().all()


def test_no_support_at_all_scores_0():
    fitted = fit(images(3), torch.zeros(3, H, W, dtype=torch.bool))
    assert not fitted.support.any()
    assert torch.equal(fitted(images(2)), torch.zeros(2, H, W))


def test_support_does_not_grow_when_loaded_under_a_smaller_min_count():
    valid = torch.ones(6, H, W, dtype=torch.bool)
    valid[2:, 0] = False
    fitted = fit(images(6), valid, min_count=3)
    for min_count, support in ((1, valid.sum(0) >= 3), (7, torch.zeros(H, W, dtype=torch.bool))):
        loaded = DenseGaussian(C, (H, W), min_count=min_count)
        loaded.load_state_dict(fitted.state_dict())
        assert torch.equal(loaded.support, support)
        assert torch.equal(loaded(images(1))[0] != 0, support)


# State ---------------------------------------------------------------------------------------


def test_the_state_dict_holds_the_fit_and_nothing_else():
    model = DenseGaussian(C, (H, W)).update(images(6))
    assert not model.state_dict()
    state = model.finalize(keep=True).state_dict()
    assert {name: (tuple(value.shape), value.dtype) for name, value in state.items()} == {
        "mean": ((C, H, W), torch.float32),
        "whitener": ((H * W, C * (C + 1) // 2), torch.float32),
        "count": ((H, W), torch.int64),
    }


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16, torch.float16])
def test_a_state_dict_makes_a_new_module_ready_to_score(storage, assign):
    valid = torch.rand(10, H, W) > 0.2
    valid[:, 0, 0] = False
    fitted = nn.Sequential(fit(images(10), valid, storage=storage))
    loaded = nn.Sequential(DenseGaussian(C, (H, W), storage=storage))
    loaded.load_state_dict(fitted.state_dict(), assign=assign)
    query = images(3)
    assert torch.equal(loaded(query), fitted(query))
    assert torch.equal(loaded[0].support, fitted[0].support)
    assert loaded[0].whitener.dtype == storage


def test_a_state_dict_goes_through_a_safetensors_file(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    load_file = pytest.importorskip("safetensors.torch").load_file
    fitted = fit(images(10), storage=torch.bfloat16)
    save_file(fitted.state_dict(), tmp_path / "density.safetensors")
    loaded = DenseGaussian(C, (H, W), storage=torch.bfloat16)
    loaded.load_state_dict(load_file(tmp_path / "density.safetensors"))
    query = images(2)
    assert torch.equal(loaded(query), fitted(query))


def test_loading_replaces_an_earlier_fit_and_its_sums():
    first, second = fit(images(10)), fit(images(10))
    model = DenseGaussian(C, (H, W)).update(images(3)).finalize(keep=True)
    model.load_state_dict(first.state_dict())
    model.load_state_dict(second.state_dict())
    query = images(2)
    assert torch.equal(model(query), second(query))
    with pytest.raises(ConfigError, match="sums are gone"):
        model.update(query)


def test_a_module_that_is_not_fitted_saves_and_loads_as_such():
    empty = DenseGaussian(C, (H, W))
    DenseGaussian(C, (H, W)).load_state_dict(empty.state_dict())
    with pytest.raises(RuntimeError, match="Missing key.*whitener"):
        fit(images(4)).load_state_dict(empty.state_dict())


def test_a_state_dict_of_another_size_is_refused_and_leaves_no_half_a_fit():
    state = fit(images(5)).state_dict()
    for wrong in (DenseGaussian(C + 1, (H, W)), DenseGaussian(C, (W, H))):
        with pytest.raises(RuntimeError, match="size mismatch for whitener|size mismatch for mean"):
            wrong.load_state_dict(state)
        assert not wrong.fitted
    del state["whitener"]
    half = DenseGaussian(C, (H, W))
    with pytest.raises(RuntimeError, match="Missing key.*whitener"):
        half.load_state_dict(state)
    assert not half.fitted


def test_copies_and_pickles_are_independent():
    features = images(10)
    model = DenseGaussian(C, (H, W)).update(features[:4])
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(
            twin.update(features[4:]).finalize().whitener,
            DenseGaussian(C, (H, W)).update(features[:4]).update(features[4:]).finalize().whitener,
        )
    assert not model.fitted


@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16, nn.Module.double])
def test_casts_of_a_whole_model_leave_the_dtypes_alone(cast):
    query = images(2)
    fitted = fit(images(10))
    assert torch.equal(cast(copy.deepcopy(fitted))(query), fitted(query))
    model = cast(DenseGaussian(C, (H, W)).update(images(10)))
    assert model.finalize().mean.dtype == torch.float32


def test_a_move_takes_the_sums_along():
    model = DenseGaussian(C, (H, W)).update(images(3)).to("meta")
    # Sums left behind would be on another device than the features.
    model.update(images(2).to("meta"))
    model.merge(DenseGaussian(C, (H, W)).update(images(2)))


# Scoring -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("storage", "bits"), [(torch.bfloat16, 8), (torch.float16, 11)])
def test_storage_in_16_bits_costs_what_its_rounding_says(storage, bits):
    features, query = images(30), images(20)
    exact = fit(features)(query)
    fitted = fit(features, storage=storage)
    assert fitted.whitener.dtype == storage and fitted.mean.dtype == torch.float32
    error = (fitted(query) - exact).abs()
    # Each entry is off by up to half a unit in its last place; the products hardly cancel here.
    assert 0 < (error / exact).max() < 8 * 2.0**-bits


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16])
def test_features_of_every_dtype_are_scored(dtype, storage):
    features, query = images(30), images(3).to(dtype)
    fitted = fit(features, storage=storage)
    scores = fitted(query)
    assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(scores.float(), fitted(query.float()), rtol=1e-5, atol=1e-6)


def test_rows_are_scored_as_in_the_whole():
    features, query = images(12), images(3)
    valid = torch.rand(12, H, W) > 0.4
    fitted = fit(features, valid, min_count=8)
    assert not fitted.supported_everywhere
    for model in (fitted, fit(features)):
        whole = model(query)
        for rows in (slice(0, 1), slice(1, 3), slice(0, H)):
            assert torch.equal(model(query[:, :, rows], rows), whole[:, rows])
    with pytest.raises(ValueError, match=r"expected \[B, 5, 1, 4\]"):
        fitted(query, slice(0, 1))
    with pytest.raises(ValueError, match="consecutive"):
        fitted(query, slice(0, 3, 2))


def test_gradients_are_those_of_the_definition():
    features = images(30)
    fitted = fit(features)
    mean, covariance = definition(features)
    query = images(2).double().requires_grad_()
    expected = torch.autograd.grad(distance(query, mean, covariance).sum(), query)
    given = torch.autograd.grad(fitted(query).sum(), query)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-6)


def test_an_empty_batch_is_scored():
    assert fit(images(4))(images(0)).shape == (0, H, W)


@pytest.mark.parametrize("use", [lambda model: model(images(1)), lambda model: model.support])
def test_scoring_before_fitting_names_the_remedy(use):
    model = DenseGaussian(C, (H, W)).update(images(3))
    with pytest.raises(ConfigError, match=r"not fitted; call update\(features\).*finalize\(\)"):
        use(model)


@pytest.mark.parametrize("call", ["update", "forward"])
def test_features_of_another_shape_or_dtype_are_refused(call):
    model = DenseGaussian(C, (H, W)).update(images(3)).finalize(keep=True)
    for shape in ((2, C, H, W + 1), (2, C + 1, H, W), (C, H, W)):
        with pytest.raises(ValueError, match=rf"expected \[B, {C}, {H}, {W}\]"):
            getattr(model, call)(torch.zeros(shape))
    with pytest.raises(TypeError, match=r"dtype torch\.int64.*features\.float\(\)"):
        getattr(model, call)(images(2).long())
    with pytest.raises(ValueError, match=r"are on meta, the module is on cpu.*\.to\('meta'\)"):
        getattr(model, call)(images(2).to("meta"))


@pytest.mark.parametrize(
    ("valid", "message"),
    [
        (torch.ones(2, H, W), r"dtype torch\.float32, expected torch\.bool"),
        (torch.ones(2, 1, H, W, dtype=torch.bool), r"\[2, 1, 3, 4\], expected \[2, 3, 4\]"),
        (torch.ones(1, H, W, dtype=torch.bool), r"\[1, 3, 4\], expected \[2, 3, 4\]"),
        (torch.ones(2, H, W, dtype=torch.bool, device="meta"), "on meta, expected cpu"),
    ],
)
def test_a_mask_of_another_kind_is_refused(valid, message):
    with pytest.raises((ValueError, TypeError), match=message):
        DenseGaussian(C, (H, W)).update(images(2), valid)


@pytest.mark.parametrize("storage", [torch.float64, torch.int8])
def test_a_storage_that_there_is_not_is_named(storage):
    with pytest.raises(ConfigError, match=f"storage={storage}"):
        DenseGaussian(C, (H, W), storage=storage)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_fit_on_a_gpu_is_that_of_the_cpu():
    features, valid, query = images(30, mean=100), torch.rand(30, H, W) > 0.2, images(3, mean=100)
    expected = fit(features, valid)
    model = DenseGaussian(C, (H, W)).cuda()
    for batch, mask in zip(features.cuda().split(8), valid.cuda().split(8), strict=True):
        model.update(batch, mask)
    model.merge(DenseGaussian(C, (H, W)))
    # The sums move with the module, and merge from another device.
    twin = DenseGaussian(C, (H, W)).merge(model).cuda()
    for one in (model.finalize(), twin.finalize()):
        assert one.mean.device.type == "cuda"
        torch.testing.assert_close(one(query.cuda()).cpu(), expected(query), rtol=1e-4, atol=1e-4)
    loaded = DenseGaussian(C, (H, W)).cuda()
    loaded.load_state_dict(expected.state_dict())
    torch.testing.assert_close(loaded(query.cuda()).cpu(), expected(query), rtol=1e-4, atol=1e-4)
