"""What a fit's Gaussians have in common, as it was found on samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fastalign.models.config import FYDConfig
from fastalign.models.fitting.samples import Samples
from fastalign.models.stored_density import form_of
from fastalign.nn.calibration import CountCalibration
from fastalign.nn.low_rank import LowRank
from fastalign.nn.mean_prior import MeanPrior
from fastalign.nn.prior import CovariancePrior


class Priors(NamedTuple):
    """Of covariances and of means; None: there is none."""

    covariance: CovariancePrior | None = None
    mean: MeanPrior | None = None

    @classmethod
    def of(
        cls,
        samples: Samples,
        config: FYDConfig,
        groups: Sequence[int],
        floor: Tensor | None,
        strength: float | None,
    ) -> Priors:
        """Those that samples of images tell, of which of twins (``groups`` by position) the first
        alone counts; see :meth:`Samples.prior`. Means are drawn where features are whitened: there
        held-out squared deviations are likelihoods."""
        covariance = samples.prior(strength, config.shrinkage, groups, floor)
        if floor is None or covariance is None:
            return cls(covariance)
        return cls(covariance, samples.mean_prior(config.mean_prior, groups))

    def form(self, config: FYDConfig, number: int) -> LowRank | None:
        """How covariances from so many images are kept; None: as packed factors."""
        if not config.low_rank or self.covariance is None:
            return None
        return form_of(config, self.covariance.strength, number)

    def options(self, config: FYDConfig, number: int) -> dict[str, Any]:
        """Of :meth:`fastalign.nn.DenseGaussian.finalize`, for so many images."""
        form = self.form(config, number)
        return {"prior": self.covariance, "form": form, "mean_prior": self.mean}

    def curve(
        self,
        samples: Samples,
        config: FYDConfig,
        shrinkage: float,
        seed: int,
        groups: Sequence[int],
        number: int,
    ) -> CountCalibration | None:
        """See :meth:`Samples.curve`, of densities of ``number`` images with these priors."""
        form = self.form(config, number)
        return samples.curve(shrinkage, seed, groups, self.covariance, form, self.mean)

    def record(self) -> dict[str, Any] | None:
        """As :class:`FitRecord` keeps it."""
        if self.covariance is None:
            return None
        mean = {} if self.mean is None else {"mean": self.mean.to_json()}
        return {**self.covariance.to_json(), **mean}
