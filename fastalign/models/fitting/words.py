"""What a density is, in a sentence."""

from __future__ import annotations

from fastalign.models.config import FYDConfig
from fastalign.models.fitting.priors import Priors
from fastalign.nn.gaussian import DenseGaussian
from fastalign.nn.mean_prior import MeanPrior
from fastalign.words import count

_AROUND = {"neighbours": "those around it", "map": "that of the whole map"}


def describe_density(gaussians: DenseGaussian, config: FYDConfig, priors: Priors) -> str:
    """What a fitted density is and why its strengths are what they are."""
    height, width = gaussians.size
    places = f"each of {width} x {height} locations"
    drawn = config.reduction == "draw"
    of = f"{count(gaussians.channels, 'channel')}, {'drawn at random' if drawn else 'whitened'}"
    if gaussians.rank is None:
        form = f"at {places} a whole covariance"
    else:
        form = f"at {places} {count(gaussians.rank, 'direction')} of its own"
    return "; ".join([of, f"{form}, {_strength(config, priors)}", _mean(config, priors.mean)])


def _strength(config: FYDConfig, priors: Priors) -> str:
    prior = priors.covariance
    if prior is None:
        return "without a prior"
    worth = f"with a prior worth {_photographs(prior.strength)}"
    if config.prior is not None:
        return f"{worth} (as set)"
    if not prior.likelihood:
        return f"{worth} (too few photographs to tell)"
    candidates = ", ".join(f"{strength:g}" for strength in sorted(prior.likelihood))
    return f"{worth} (held-out ones are likeliest so, of {candidates})"


def _mean(config: FYDConfig, mean: MeanPrior | None) -> str:
    if mean is not None:
        return (
            f"its mean drawn to {_AROUND[mean.towards]} as by {_photographs(mean.strength)} (that "
            f"takes {mean.gain:.2%} off the squared deviations of held-out ones)"
        )
    if config.reduction == "whiten" and config.mean_prior != "own":
        return "its mean as it is (held-out photographs ask for no prior)"
    return "its mean as it is"


def _photographs(strength: float) -> str:
    return "1 photograph" if strength == 1 else f"{float(f'{strength:.3g}'):g} photographs"
