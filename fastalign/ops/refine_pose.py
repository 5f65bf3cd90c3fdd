"""``refine_pose``: Gauss-Newton refinement of candidate poses, all steps in one op."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from fastalign.ops import checks
from fastalign.ops.arguments import Companion, Count, Features, Poses
from fastalign.ops.declaration import Declaration
from fastalign.ops.layout import accumulation_dtype
from fastalign.ops.registration import declare

# Those of an affine map.
MOST_PARAMETERS = 6


@dataclass(frozen=True)
class _Edges(Features):
    """``[B,1,H,W]``."""

    def check(self, op: str, value: Tensor, of: str, first: Tensor) -> None:
        super().check(op, value, of, first)
        batch, _, height, width = value.shape
        checks.shape(op, self.name, value, (batch, 1, height, width), "[B, 1, H, W]")


@dataclass(frozen=True)
class _Generators(Companion):
    """``[P,2,3]`` with a P that maps have."""

    def check(self, op: str, value: Tensor | None, of: str, first: Tensor) -> None:
        super().check(op, value, of, first)
        if value is not None and not 1 <= len(value) <= MOST_PARAMETERS:
            raise ValueError(
                f"{op}: {self.name} have shape {list(value.shape)}, expected those of 1 to "
                f"{MOST_PARAMETERS} parameters; affine.generators(family) gives them"
            )


def _beside(
    kind: type[Companion], name: str, shape: Callable[..., Sequence[int | str]], meaning: str
) -> Companion:
    """A companion of the edges in their accumulation dtype."""
    return kind(
        name,
        gradient=True,
        shape=shape,
        meaning=meaning,
        dtypes=lambda edges: (accumulation_dtype(edges),),
        remedy=" (edges are {dtype})",
    )


_REFINE = declare(
    Declaration(
        "refine_pose",
        (
            _Edges("edges", sampled=True),
            _beside(
                Companion,
                "theta",
                lambda batch, *_: (batch, "K", 2, 3),
                "K maps for each image of edges",
            ),
            _beside(Companion, "template", lambda _, one, *size: size, "[H, W] of edges"),
            _beside(Companion, "weight", lambda _, one, *size: size, "[H, W] of edges"),
            _beside(_Generators, "generators", lambda *_: ("P", 2, 3), "one for each parameter"),
            Count("iterations"),
        ),
        result=Poses(),
        backward=False,
    )
)


def refine_pose(
    edges: Tensor,
    theta: Tensor,
    template: Tensor,
    weight: Tensor,
    generators: Tensor,
    iterations: int = 8,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Refine candidate poses by Gauss-Newton: the steps of the inverse compositional algorithm
    (Baker and Matthews, IJCV 2004) for the criterion of ECC (Evangelidis and Psarakis, PAMI 2008).

    A step that lowers the correlation is not kept, and one that lowers it by less than 1e-4 is kept
    in part. The op is made for inference: its gradient is that of the formula, by torch, step by
    step, and takes the memory and the time of that.

    Args:
        edges: images ``[B,1,H,W]``; float32, float64, float16 or bfloat16, any strides.
        theta: where K candidates of each image start ``[B,K,2,3]``, aligned to image coordinates,
            as in ``warp_affine``; float32, float64 if and only if edges are. So are all below.
        template: what the warped images are correlated with ``[H,W]``.
        weight: of each location of the template ``[H,W]``, at least 0. Locations whose sample is
            less than a pixel from the image's border do not count.
        generators: derivative of the maps by each of P parameters, 1 to 6, at the identity
            ``[P,2,3]``, as ``affine.generators`` gives them.
        iterations: number of steps.
        backend: None for the automatic choice, or a name of ``available_backends``.

    Returns:
        theta ``[B,K,2,3]``, and ``[B,K]``: the best correlation on the way to it, -1 to 1, which
        its own is below by less than 1e-4; -1 where less than a quarter of the weight is in sight.

    Raises:
        ValueError, TypeError: an argument of the wrong shape, device or dtype.
        BackendError: a backend asked for by name cannot run.
    """
    given = edges, theta, template, weight, generators, iterations
    found: tuple[Tensor, Tensor] = _REFINE(*given, backend or "auto")
    return found
