"""Gaussians joined with more images from what is stored of them alone."""

import pytest
import torch

from fastalign.errors import ConfigError
from fastalign.nn import CovariancePrior, DenseGaussian

CHANNELS, SIZE = 6, (5, 7)


def images(number, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(CHANNELS, CHANNELS, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(number, CHANNELS, *SIZE, generator=generator)
    return torch.einsum("cd,bdhw->bchw", mix, noise) + 3 + shift


def valid(number, seed, share=0.7):
    return torch.rand(number, *SIZE, generator=torch.Generator().manual_seed(seed)) < share


def fitted(parts, prior=None, min_count=1, storage=torch.float32):
    density = DenseGaussian(CHANNELS, SIZE, storage=storage)
    for features, seen in parts:
        density.update(features, seen)
    return density.finalize(min_count=min_count, prior=prior)


def sums_of(features, seen):
    return DenseGaussian(CHANNELS, SIZE).update(features, seen).open_sums()


def stored_again(density, min_count):
    """The density as a file gives it back."""
    loaded = DenseGaussian(CHANNELS, SIZE, storage=density.storage)
    loaded.load_state_dict(density.state_dict())
    loaded.min_count = min_count
    return loaded


PRIOR = CovariancePrior(torch.eye(CHANNELS, dtype=torch.float64) * 2 + 0.5, 7.0, 0.2)


@pytest.mark.parametrize(
    ("storage", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 0.05)], ids=str
)
@pytest.mark.parametrize("prior", [None, PRIOR], ids=["alone", "prior"])
@pytest.mark.parametrize("masked", [False, True], ids=["everywhere", "masked"])
def test_n_images_and_m_more_are_a_fit_of_all(prior, masked, storage, tolerance):
    first, second = images(9, 1), images(4, 2, shift=0.7)
    seen = (valid(9, 3), valid(4, 4)) if masked else (None, None)
    least = 2
    before = stored_again(fitted([(first, seen[0])], prior, least, storage), least)
    whole = fitted([(first, seen[0]), (second, seen[1])], prior, least, storage)
    strength, shrinkage = (0.0, None) if prior is None else (prior.strength, prior.shrinkage)
    options = {"strength": strength, "shrinkage": shrinkage, "min_count": least}
    joined = before.extended(sums_of(second, seen[1]), **options)
    # Where there was no support, nothing but the mean of one image is stored.
    exact = before.support
    assert bool(exact.all()) or masked
    assert torch.equal(joined.count[exact], whole.count[exact])
    test = images(3, 5)
    both = exact & whole.support
    assert torch.equal(joined.support & exact, both)
    found, expected = joined(test)[:, both], whole(test)[:, both]
    assert (found - expected).abs().max() < tolerance * expected.abs().max()
    assert torch.allclose(joined.mean[:, exact], whole.mean[:, exact], atol=1e-5)


def test_a_location_of_one_image_goes_on_and_one_of_few_begins_anew():
    first, second = images(5, 1), images(4, 2)
    seen = torch.ones(5, *SIZE, dtype=torch.bool)
    seen[1:, 0, 0] = False
    seen[2:, 0, 1] = False
    before = stored_again(fitted([(first, seen)], None, 3), 3)
    assert not before.support[0, :2].any() and before.support[1:].all()
    joined = before.extended(sums_of(second, None), min_count=3)
    assert joined.support.all()
    whole = fitted([(first, seen), (second, None)])
    anew = fitted([(second, None)])
    test = images(2, 6)
    assert torch.allclose(joined(test)[:, 0, 0], whole(test)[:, 0, 0], rtol=1e-4)
    assert torch.allclose(joined(test)[:, 0, 1], anew(test)[:, 0, 1], rtol=1e-4)
    assert joined.count[0, :2].tolist() == [5, 4]


def test_what_the_new_images_do_not_show_stays_bit_for_bit():
    seen = torch.ones(3, *SIZE, dtype=torch.bool)
    seen[:, :, 3:] = False
    before = stored_again(fitted([(images(6, 1), None)]), 1)
    joined = before.extended(sums_of(images(3, 2), seen), min_count=1)
    kept = slice(3, None)
    assert torch.equal(joined.mean[:, :, kept], before.mean[:, :, kept])
    whiteners = [d.whitener.view(*SIZE, -1)[:, kept] for d in (joined, before)]
    assert torch.equal(*whiteners)
    assert torch.equal(joined.count, torch.where(seen[0], 9, 6))
    # More are wanted than it has seen.
    assert not before.extended(sums_of(images(3, 2), seen), min_count=7).support[:, 3:].any()


def test_an_unknown_location_takes_what_the_others_have_in_common_as_its_prior():
    seen = torch.ones(8, *SIZE, dtype=torch.bool)
    seen[2:, 0, 0] = False
    before = stored_again(fitted([(images(8, 1), seen)], PRIOR, 3), 3)
    joined = before.extended(sums_of(images(3, 2), None), strength=7.0, shrinkage=0.2, min_count=3)
    here, there = joined(images(20, 3))[:, 0, 0], joined(images(20, 3))[:, 2:]
    assert joined.support.all() and 0.5 < here.mean() / there.mean() < 2


def test_sums_of_another_shape_and_one_that_is_not_fitted_are_refused():
    before = fitted([(images(3, 1), None)])
    other = DenseGaussian(CHANNELS, (2, 2)).update(images(2, 1)[:, :, :2, :2]).open_sums()
    with pytest.raises(ValueError, match="locations and channels"):
        before.extended(other)
    with pytest.raises(ConfigError, match="not fitted"):
        DenseGaussian(CHANNELS, SIZE).extended(sums_of(images(2, 1), None))
