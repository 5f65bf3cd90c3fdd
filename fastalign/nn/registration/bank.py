"""A bank of turned templates, correlated with an image over all shifts at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastalign.nn.state import captured
from fastalign.nn.transfer import fetched, sent
from fastalign.numeric import LARGEST_ASPECT, LEAST_ASPECT, real_number
from fastalign.ops import affine, plain

# Overlaps of the two windows below this share of the full one count as this share: the quotient of
# two small numbers must not win.
_LEAST_OVERLAP = 0.1


def hann(height: int, width: int) -> Tensor:
    """Hann window ``[height,width]``, zero just outside the map."""

    def axis(count: int) -> Tensor:
        return torch.sin(math.pi * (torch.arange(count) + 0.5) / count).square()

    return torch.outer(axis(height), axis(width))


class TemplateBank(nn.Module):
    """Candidate poses of an image by correlation with templates at R angles. Ours.

    Both the descriptors of the image and the templates are faded out by a Hann window; their
    correlation over all shifts is a product of Fourier transforms, padded to twice the size so that
    nothing wraps around, and divided by the overlap of the two windows.

    Arguments:
        angles: radians, ascending and evenly spaced ``[R]``.
        templates: ``[R,K,h,w]``, mean descriptors of the aligned training images turned by each
            angle.
        aspect: width over height of the images in true units.
        max_shift: largest shift along each axis, as a share of the image.
    """

    angles: Tensor
    templates: Tensor
    _spectra: Tensor
    _window: Tensor
    _per_overlap: Tensor

    def __init__(
        self, angles: Tensor, templates: Tensor, *, aspect: float = 1.0, max_shift: float = 0.35
    ) -> None:
        super().__init__()
        self.aspect = real_number("TemplateBank: aspect", aspect, LEAST_ASPECT, LARGEST_ASPECT)
        self.max_shift = real_number("TemplateBank: max_shift", max_shift, 0, 1)
        angles = angles.float()
        self.register_buffer("angles", sent(angles, templates.device))
        self.register_buffer("templates", templates.float())
        self._prepare(angles)
        self.register_load_state_dict_post_hook(_prepare_again)

    @property
    def full_circle(self) -> bool:
        """Whether the last angle is followed by the first."""
        step = self._step
        return len(self.angles) > 2 and abs(len(self.angles) * step - 2 * math.pi) < 0.1 * step

    @property
    def step(self) -> float:
        """Radians from one angle to the next, 0 for a single one."""
        return self._step

    def _prepare(self, angles: Tensor) -> None:
        """Everything that follows from the templates and their angles: spectra
        ``[frequencies,2R,K]``, overlaps, step."""
        device = self.templates.device
        height, width = self.templates.shape[-2:]
        window = sent(hann(height, width), device)
        padded = (2 * height, 2 * width)
        spectra = torch.fft.rfft2(self.templates * window, s=padded)
        spectra = spectra.permute(2, 3, 0, 1).flatten(0, 1)
        # Real and imaginary part side by side: a batched complex product is a slow loop.
        spectra = torch.cat([spectra.real, spectra.imag], 1).contiguous()
        of_window = torch.fft.rfft2(window, s=padded)
        overlap = torch.fft.irfft2(of_window * of_window.conj(), s=padded)
        overlap = self._centre(overlap + _LEAST_OVERLAP * overlap.max())
        for name, value in (("spectra", spectra), ("window", window), ("per_overlap", 1 / overlap)):
            self.register_buffer(f"_{name}", value, persistent=False)
        first = fetched(angles[:2]).tolist()
        self._step = first[1] - first[0] if len(first) > 1 else 0.0
        self._is_full = self.full_circle

    def _limits(self) -> tuple[int, int]:
        """The largest shift down and to the right in locations: a and b."""
        height, width = self.templates.shape[-2:]
        return int(self.max_shift * height), int(self.max_shift * width)

    def _centre(self, correlation: Tensor) -> Tensor:
        """Shifts within the limit, the zero shift in the middle: ``[..., 2a+1, 2b+1]``."""
        height, width = self.templates.shape[-2:]
        rows, columns = self._limits()
        centred = torch.fft.fftshift(correlation, dim=(-2, -1))
        return centred[
            ..., height - rows : height + rows + 1, width - columns : width + columns + 1
        ]

    def correlate(self, descriptors: Tensor) -> Tensor:
        """Correlation of descriptors ``[B,K,h,w]`` with each template at each shift:
        ``[B,R,2a+1,2b+1]``."""
        if plain.active():
            return self._correlate_directly(descriptors)
        height, width = self.templates.shape[-2:]
        padded = (2 * height, 2 * width)
        turns = len(self.angles)
        # On a CPU libraries transform and multiply several images in another order than one, and a
        # pose would depend on what else is in the batch.
        one_by_one = descriptors.device.type == "cpu" and not captured()
        products = [
            self._products(given, padded)
            for given in (descriptors.split(1) if one_by_one else (descriptors,))
        ]
        # [frequencies, R, B, 2] of (template real, imaginary) times (image real, imaginary).
        by_real, by_imaginary = (
            part.unflatten(2, (-1, 2)) for part in torch.cat(products, 2).split(turns, 1)
        )
        product = torch.complex(
            by_real[..., 0] + by_imaginary[..., 1], by_real[..., 1] - by_imaginary[..., 0]
        )
        product = product.unflatten(0, (padded[0], -1)).permute(3, 2, 0, 1)
        return self._centre(torch.fft.irfft2(product, s=padded)) * self._per_overlap

    def _products(self, descriptors: Tensor, padded: tuple[int, int]) -> Tensor:
        """Parts of the templates' spectra times those of B images, ``[frequencies,2R,2B]``."""
        spectrum = torch.fft.rfft2(descriptors * self._window, s=padded)
        columns = torch.view_as_real(spectrum.permute(2, 3, 1, 0)).flatten(0, 1).flatten(2)
        return self._spectra @ columns

    def _correlate_directly(self, descriptors: Tensor) -> Tensor:
        """The same as a convolution: more work, and no complex numbers."""
        rows, columns = self._limits()
        border = (columns, columns, rows, rows)
        # The window after the border: OpenVINO 2026.4 gives wrong values where a convolution with
        # padding follows a product with a map.
        windowed = F.pad(descriptors, border) * F.pad(self._window, border)
        return F.conv2d(windowed, self.templates * self._window) * self._per_overlap

    def forward(self, descriptors: Tensor, candidates: int = 3) -> tuple[Tensor, Tensor]:
        """The best poses, each a local maximum over the angles, and their correlations.

        theta ``[B,N,2,3]`` with N at most ``candidates``, shifts and angle to a fraction of their
        steps by parabolas, and ``[B,N]``, about -1 to 1.
        """
        scores = self.correlate(descriptors)
        turns, rows, columns = scores.shape[1:]
        surfaces = scores.flatten(2)
        best, where = surfaces.max(2)
        chosen = self._peaks(best, min(candidates, turns))
        place = where.gather(1, chosen)
        # Of whole numbers from 0 on the quotient needs no rounding down, which runtimes spell out
        # in comparisons.
        row = place.div(columns, rounding_mode="trunc")
        column = place - row * columns
        surfaces = surfaces.gather(1, chosen.unsqueeze(2).expand(-1, -1, rows * columns))

        def at(y: Tensor, x: Tensor) -> Tensor:
            where = y.clamp(0, rows - 1) * columns + x.clamp(0, columns - 1)
            return surfaces.gather(2, where.unsqueeze(2)).squeeze(2)

        peak = at(row, column)
        down = row + _vertex(at(row - 1, column), peak, at(row + 1, column))
        right = column + _vertex(at(row, column - 1), peak, at(row, column + 1))
        height, width = self.templates.shape[-2:]
        shift = torch.stack(
            [(right - columns // 2) * 2 / width, (down - rows // 2) * 2 / height], -1
        )
        turn = _vertex(best.roll(1, 1).gather(1, chosen), peak, best.roll(-1, 1).gather(1, chosen))
        angle = self.angles[chosen] + turn * self._step
        theta = affine.from_parameters(-angle.unsqueeze(-1), "rotation", self.aspect)
        return torch.cat([theta[..., :2], shift.unsqueeze(-1)], -1), peak

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward

    def _peaks(self, best: Tensor, count: int) -> Tensor:
        """Indices ``[B,count]`` of the largest local maxima over the angles."""
        if best.shape[1] == 1:
            return torch.zeros_like(best, dtype=torch.long)
        if self._is_full:
            before, after = best.roll(1, 1), best.roll(-1, 1)
        else:
            before = F.pad(best[:, :-1], (1, 0), value=-torch.inf)
            after = F.pad(best[:, 1:], (0, 1), value=-torch.inf)
        is_peak = (best >= before) & (best >= after)
        # Others come after every peak, in their own order.
        return (best + torch.where(is_peak, 1e3, 0.0)).topk(count, 1).indices


def _prepare_again(bank: TemplateBank, _: object) -> None:
    bank._prepare(bank.angles)


def _vertex(before: Tensor, peak: Tensor, after: Tensor) -> Tensor:
    """Where the parabola through three values has its top, within half a step of the middle."""
    curvature = (before - 2 * peak + after).clamp_max(-1e-6)
    return (0.5 * (before - after) / curvature).clamp(-0.5, 0.5)
