"""Every option of the model, in one place, checked when it is made."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypedDict, get_args

from fastalign.errors import ConfigError
from fastalign.numeric import (
    LARGEST_ASPECT,
    LARGEST_PRIOR,
    LARGEST_SHRINKAGE,
    LARGEST_SIGMA,
    LARGEST_WHOLE,
    LEAST_ASPECT,
    real_number,
    whole_number,
)

PARTS = ("ica", "fca", "fa")

# What editors and type checkers offer; the runtime takes the parts of align in any order.
Align = Literal["none", "all", "ica", "fca", "fa", "ica+fca", "ica+fa", "fca+fa", "ica+fca+fa"]
Family = Literal[
    "translation",
    "rotation",
    "scale",
    "shear",
    "rotation_scale",
    "rotation_translation",
    "scale_translation",
    "similarity",
    "affine",
]
Reduction = Literal["whiten", "draw"]
MeanTowards = Literal["auto", "own", "neighbours", "map"]
Storage = Literal["float32", "bfloat16", "float16", "int8"]


@dataclass(frozen=True)
class FYDConfig:
    """Options of :class:`fastalign.FYD`.

    Tags: [P] from the paper's abstract or notes on it, [L] from code of its lineage (RegAD, PaDiM,
    SimSiam), [O] ours, because the paper's choice is not known.

    Attributes:
        image_size: height and width in pixels. [P] 256 x 256.
        align: ``"none"``, ``"all"``, or any of ``"ica"`` (image-level coarse alignment) [P],
            ``"fca"`` (feature-level coarse alignment) [P] and ``"fa"`` (fine alignment) [P], joined
            by ``+``.
        teacher: ICA by poses that are searched on the training images and answered by correlation
            with what was learned from them [O]. False: the paper's plain form, a spatial
            transformer trained by the pairwise distance alone [P].
        skip: leave ICA or FCA out where it explains held-out normal images no better [O].
        family: transformations of ICA. ``"auto"``: with the teacher the smallest of none,
            translation, rotation_translation that explains the images [O], else affine [L]; or a
            key of :data:`fastalign.ops.affine.FAMILIES`.
        fca_family: transformations of FCA. [L] rotation_scale.
        aspect: width over height of the photographs in true units. None: that of the training
            photographs, for tensors that of their shape.
        backbone: a timm network with ``features_only``. [O] EfficientNet-Lite0.
        weights: ``"embedded"``, ``"hub"`` or a file; None: embedded for EfficientNet-Lite0, the hub
            for all others.
        layers: timm feature indices or module names. None: the last at ``strides``.
        strides: of the layers where these are not given. [O] 8 and 16; 4 as well is [L].
        reduction: how the network's channels become features. ``"whiten"``: by what all locations
            have in common, so that all directions of normal variation count alike, the same for
            every seed [O]; ``"draw"``: they are those drawn at random by the seed [L, PaDiM].
        channels: of the network that are taken, at most; 0: all. [O] 256, which is all of
            EfficientNet-Lite0; 100 is PaDiM's [L]. Where there are more, so many are drawn: to be
            whitened, the same for every seed.
        prior: for how many photographs the covariance that all locations have in common counts at
            each of them [O]; 0: none, as in PaDiM [L]; None: as many as make held-out normal images
            likeliest [O].
        mean_prior: of whitened features with a prior, what the mean of a location is drawn to:
            ``"neighbours"``, ``"map"``, the mean of all locations, ``"own"``, nothing, or
            ``"auto"``, what held-out normal images ask for most; always as strongly as these ask
            for (see :class:`fastalign.nn.MeanPrior`) [O].
        rank: of whitened features with a prior, directions at most in which a location's covariance
            differs from what all have in common, nor more than the images less one (see
            :class:`fastalign.nn.LowRank`) [O]; 0: all, as a packed factor.
        neighbours: locations on each side whose images join in these directions [O].
        shrinkage: added to the variances. None: with a prior 0.15 of their mean, at least 0.01 [O];
            without one PaDiM's 0.01 [L].
        storage: of the Gaussians: float32, bfloat16, float16, or int8, which in a file keeps 8 bits
            of each number of the directions and a scale for each, and float16 of all else [O].
        min_share: locations that a smaller share of the training images saw are not scored [O].
        calibrate: scale distances down where fewer images were seen (see
            :class:`fastalign.nn.CountCalibration`) [O].
        refit: take the validation images into the density once the thresholds are set [O].
        sigma: Gaussian smoothing of the map in pixels. [L] 4.
        top_share: an image's score is the mean of this share of its map's pixels, the largest [O];
            0: the largest value [L].
        threshold_quantile: quantile of the scores of normal validation images that becomes the
            threshold [O].
        epochs: of training. [L] 50 in the lineage; [O] 10, behind which the losses here stay level.
        batch_size: images per training step. [L] 32.
        learning_rate: of FA and FCA, SGD with cosine decay. [L] 1e-4.
        ica_learning_rate: of the plain ICA. [L] 0.01.
        momentum: of both. [L] 0.9.
        ica_weight, fa_weight: weights of the two losses [O].
        projector_channels: width of the projectors; 0: that of the features [O].
        search_images: images at most on which poses are searched and families compared [O].

    Raises:
        ConfigError: an option has no such value.
    """

    image_size: tuple[int, int] = (256, 256)
    align: str = "all"
    teacher: bool = True
    skip: bool = True
    family: str = "auto"
    fca_family: str = "rotation_scale"
    aspect: float | None = None
    backbone: str = "tf_efficientnet_lite0"
    weights: str | None = None
    layers: tuple[int | str, ...] | None = None
    strides: tuple[int, ...] = (8, 16)
    reduction: str = "whiten"
    channels: int = 256
    prior: float | None = 3.0
    mean_prior: str = "auto"
    rank: int = 64
    neighbours: int = 1
    shrinkage: float | None = None
    storage: str = "int8"
    min_share: float = 0.1
    calibrate: bool = True
    refit: bool = True
    sigma: float = 4.0
    top_share: float = 0.0
    threshold_quantile: float = 0.99
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-4
    ica_learning_rate: float = 0.01
    momentum: float = 0.9
    ica_weight: float = 1.0
    fa_weight: float = 1.0
    projector_channels: int = 0
    search_images: int = 100

    def __post_init__(self) -> None:
        size: Any = self.image_size
        sides = (
            list(size) if isinstance(size, Sequence) and not isinstance(size, str) else [size] * 2
        )
        because = "height and width in pixels, such as (256, 256)"
        shown = f"image size {size!r}: a side"
        if len(sides) != 2:
            raise ConfigError(f"image size {size!r}: give {because}, at least 16 each.")
        sides = [whole_number(shown, side, 16, because=because) for side in sides]
        object.__setattr__(self, "image_size", tuple(sides))
        layers: Any = self.layers
        if layers is not None:
            if isinstance(layers, str) or not isinstance(layers, Sequence):
                raise ConfigError(
                    f"layers {layers!r}: give indices or names in a list, such as ['blocks.1']."
                )
            names = [
                layer
                if isinstance(layer, str)
                else whole_number("layers: an index", layer, -LARGEST_WHOLE, other="a name")
                for layer in layers
            ]
            object.__setattr__(self, "layers", tuple(names))
        strides: Any = self.strides
        if isinstance(strides, str) or not isinstance(strides, Sequence) or not strides:
            raise ConfigError(f"strides {strides!r}: give numbers in a list, such as (8, 16).")
        steps = [whole_number("strides: one", s, 1, because="pixels") for s in strides]
        object.__setattr__(self, "strides", tuple(steps))
        asked = str(self.align).split("+")
        if set(asked) - {*PARTS, "none", "all"} or ("none" in asked and len(asked) > 1):
            raise ConfigError(
                f"align {self.align!r}: use none, all, or any of {', '.join(PARTS)} joined by +."
            )
        self._choose("family", ("auto", *get_args(Family)))
        self._choose("fca_family", get_args(Family))
        self._choose("reduction", get_args(Reduction))
        self._choose("mean_prior", get_args(MeanTowards))
        self._choose("storage", get_args(Storage))
        self._bound("channels", 0, whole=True)
        self._bound("rank", 0, whole=True)
        self._bound("neighbours", 0, whole=True)
        self._bound("epochs", 0, whole=True)
        self._bound("batch_size", 2, "the losses compare the images of a batch", whole=True)
        self._bound("projector_channels", 0, whole=True)
        self._bound("search_images", 4, whole=True)
        if self.prior is not None:
            self._bound("prior", 0, most=LARGEST_PRIOR)
        if self.shrinkage is not None:
            self._bound("shrinkage", 0, most=LARGEST_SHRINKAGE)
        self._bound("min_share", 0, most=1)
        self._bound("sigma", 0, most=LARGEST_SIGMA)
        self._bound("top_share", 0, most=1)
        self._bound("threshold_quantile", 0, most=1)
        # Beyond these, SGD leaves of the weights nothing but NaN.
        self._bound("momentum", 0, most=1, open_ended=True)
        for name in ("learning_rate", "ica_learning_rate"):
            self._bound(name, 0, most=1e3)
        for name in ("ica_weight", "fa_weight"):
            self._bound(name, 0, most=1e6)
        if self.aspect is not None:
            self._bound("aspect", LEAST_ASPECT, most=LARGEST_ASPECT)
        for name in ("teacher", "skip", "calibrate", "refit"):
            value: Any = getattr(self, name)
            if value not in (True, False):
                raise ConfigError(f"{_words(name)} {value!r}: use True or False.")
            object.__setattr__(self, name, bool(value))
        texts: dict[str, Any] = {"backbone": self.backbone, "weights": self.weights}
        for name, text in texts.items():
            if isinstance(text, os.PathLike):
                object.__setattr__(self, name, os.fspath(text))
            elif not isinstance(text, str) and not (name == "weights" and text is None):
                raise ConfigError(f"{name} {text!r}: give a name in text.")

    @property
    def low_rank(self) -> bool:
        """Whether covariances are kept as an identity and a few directions."""
        return self.reduction == "whiten" and self.rank > 0 and self.prior != 0

    def uses(self, part: str) -> bool:
        """Whether ``align`` asks for ``"ica"``, ``"fca"`` or ``"fa"``."""
        asked = self.align.split("+")
        return "all" in asked or part in asked

    def _choose(self, name: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in allowed:
            raise ConfigError(f"{_words(name)} {value!r}: use one of {', '.join(allowed)}.")

    def _bound(
        self,
        name: str,
        least: float,
        reason: str = "",
        most: float | None = None,
        whole: bool = False,
        open_ended: bool = False,
    ) -> None:
        value: Any = getattr(self, name)
        if whole:
            ceiling = LARGEST_WHOLE if most is None else int(most)
            value = whole_number(_words(name), value, int(least), ceiling, because=reason)
        else:
            value = real_number(
                _words(name),
                value,
                least,
                math.inf if most is None else most,
                open_ended=open_ended,
                because=reason,
            )
        object.__setattr__(self, name, value)


class FYDOptions(TypedDict, total=False):
    """The options of :class:`FYDConfig` by name, for ``FYD(**options)``."""

    image_size: tuple[int, int] | int
    align: Align
    teacher: bool
    skip: bool
    family: Family | Literal["auto"]
    fca_family: Family
    aspect: float | None
    backbone: str
    weights: str | None
    layers: Sequence[int | str] | None
    strides: Sequence[int]
    reduction: Reduction
    channels: int
    prior: float | None
    mean_prior: MeanTowards
    rank: int
    neighbours: int
    shrinkage: float | None
    storage: Storage
    min_share: float
    calibrate: bool
    refit: bool
    sigma: float
    top_share: float
    threshold_quantile: float
    epochs: int
    batch_size: int
    learning_rate: float
    ica_learning_rate: float
    momentum: float
    ica_weight: float
    fa_weight: float
    projector_channels: int
    search_images: int


def with_options(config: FYDConfig, options: Mapping[str, Any]) -> FYDConfig:
    """``config`` with these options in place of its own.

    Raises:
        ConfigError: there is no such option, or it has no such value.
    """
    known = [field.name for field in fields(FYDConfig)]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(f"FYD: no option {name!r}{meant}; there are {', '.join(known)}.")
    return replace(config, **options) if options else config


def _words(name: str) -> str:
    return name.replace("_", " ")
