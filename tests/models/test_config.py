from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pytest

from fastalign.errors import ConfigError
from fastalign.models import FYD, FYDConfig
from fastalign.models.config import PARTS, Family, FYDOptions
from fastalign.ops import affine

NAN, INF = math.nan, math.inf


def test_the_defaults_are_valid_and_cannot_be_changed():
    config = FYDConfig()
    assert config.image_size == (256, 256) and config.align == "all" and config.strides == (8, 16)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.sigma = 1.0


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("image_size", (8, 64), "image size .8, 64.*at least 16"),
        ("image_size", 15, "image size 15"),
        ("image_size", (64,), "image size .64,"),
        ("image_size", (64, 64, 3), "image size .64, 64, 3"),
        ("image_size", (64.0, 64), "image size .64.0, 64"),
        ("image_size", None, "image size None"),
        ("image_size", "64", "image size '64'"),
        ("align", "icaa", "align 'icaa': use none, all, or any of ica, fca, fa"),
        ("align", "", "align ''"),
        ("align", "ica,fa", "align 'ica,fa'"),
        ("align", "none+ica", "align 'none.ica'"),
        ("align", None, "align None"),
        ("family", "rigid", "family 'rigid': use one of auto, translation"),
        ("fca_family", "auto", "fca family 'auto': use one of translation"),
        ("storage", "float64", "storage 'float64': use one of float32, bfloat16, float16, int8"),
        ("channels", -1, "channels -1: give a .*number at least 0"),
        ("channels", 1.5, "channels 1.5: give a whole number"),
        ("epochs", -1, "epochs -1"),
        ("epochs", 2.5, "epochs 2.5: give a whole number"),
        ("batch_size", 1, "batch size 1: .*at least 2: the losses compare the images"),
        ("batch_size", 4.0, "batch size 4.0: give a whole number"),
        ("projector_channels", -3, "projector channels -3"),
        ("search_images", 3, "search images 3: .*at least 4"),
        ("shrinkage", -0.1, "shrinkage -0.1"),
        ("shrinkage", NAN, "shrinkage nan"),
        ("min_share", 1.1, "min share 1.1: give a number from 0 to 1"),
        ("min_share", -0.1, "min share -0.1"),
        ("sigma", -1, "sigma -1"),
        ("sigma", INF, "sigma inf"),
        ("sigma", 1e30, "sigma 1e\\+30"),
        ("shrinkage", 1e39, "shrinkage 1e\\+39"),
        ("threshold_quantile", 99, "threshold quantile 99: .*from 0 to 1"),
        ("learning_rate", -1, "learning rate -1"),
        ("ica_learning_rate", INF, "ica learning rate inf"),
        ("momentum", "much", "momentum much: give a number"),
        ("ica_weight", -1, "ica weight -1"),
        ("fa_weight", None, "fa weight None"),
        ("aspect", 0, "aspect 0: give a number from 0.001 to 1000"),
        ("aspect", NAN, "aspect nan"),
        ("layers", "blocks.1", "layers 'blocks.1'"),
        ("layers", 3, "layers 3"),
        ("layers", [1.5], "layers: an index 1.5: give a whole number.* or a name"),
        ("layers", [NAN], "layers: an index nan"),
        ("layers", [True], "layers: an index True"),
        ("image_size", (True, 64), "image size .True, 64"),
        ("image_size", 2**40, "image size 1099511627776"),
        ("image_size", (NAN, 64), "image size .nan, 64"),
        ("teacher", "no", "teacher 'no': use True or False"),
        ("refit", None, "refit None: use True or False"),
        ("skip", NAN, "skip nan: use True or False"),
        ("calibrate", 2, "calibrate 2"),
        ("backbone", 18, "backbone 18: give a name"),
        ("aspect", 1e9, "aspect 1e.09|aspect 1000000000"),
    ],
)
def test_every_bad_value_is_named(option, value, named):
    with pytest.raises(ConfigError, match=named):
        FYDConfig(**{option: value})


@pytest.mark.parametrize(
    ("option", "value", "kept"),
    [
        ("image_size", 64, (64, 64)),
        ("image_size", [64, 96], (64, 96)),
        ("layers", ["blocks.1", 3], ("blocks.1", 3)),
        ("layers", None, None),
        ("min_share", 0, 0),
        ("min_share", 1, 1),
        ("channels", 0, 0),
        ("epochs", 0, 0),
        ("aspect", 1.5, 1.5),
        ("aspect", None, None),
        ("sigma", 0, 0),
        ("shrinkage", 0.0, 0.0),
        ("threshold_quantile", 1.0, 1.0),
    ],
)
def test_values_at_their_limits_are_kept(option, value, kept):
    assert getattr(FYDConfig(**{option: value}), option) == kept


@pytest.mark.parametrize("option", ["family", "fca_family"])
def test_every_family_can_be_asked_for(option):
    for family in affine.FAMILIES:
        assert getattr(FYDConfig(**{option: family}), option) == family


@pytest.mark.parametrize(
    ("align", "used"),
    [
        ("none", set()),
        ("ica", {"ica"}),
        ("fca", {"fca"}),
        ("fa", {"fa"}),
        ("ica+fa", {"ica", "fa"}),
        ("fa+ica", {"ica", "fa"}),
        ("ica+fca+fa", set(PARTS)),
        ("all", set(PARTS)),
    ],
)
def test_what_align_asks_for(align, used):
    config = FYDConfig(align=align)
    assert {part for part in PARTS if config.uses(part)} == used


def test_options_in_place_of_those_of_a_config():
    model = FYD(FYDConfig(image_size=32, channels=7, sigma=2), channels=5)
    assert model.config == FYDConfig(image_size=32, channels=5, sigma=2)


def test_an_unknown_option_is_named():
    with pytest.raises(
        ConfigError,
        match="FYD: no option 'sigmas'.*mean sigma.*; there are image_size, .*search_images",
    ):
        FYD(sigmas=3)


def test_the_typed_options_are_those_of_the_configuration():
    """What editors complete in ``FYD(...)`` is what FYDConfig has, and what it allows."""
    typed = get_type_hints(FYDOptions)
    assert list(typed) == [field.name for field in dataclasses.fields(FYDConfig)]
    assert get_args(Family) == tuple(affine.FAMILIES)
    kept = get_type_hints(FYDConfig)
    for name, hint in typed.items():
        plain = {int: 1, float: 0.5, bool: False, str: "none", type(None): None}
        choices = get_args(hint) if get_origin(hint) in (Literal, Union, UnionType) else ()
        if get_origin(hint) is Literal:
            for value in choices:
                assert getattr(FYDConfig(**{name: value}), name) == value
        elif not choices:
            as_given = {Sequence[int]: tuple[int, ...]}.get(hint, hint)
            assert as_given == kept[name], name
            assert as_given in (*plain, tuple[int, int], tuple[int, ...]), name
