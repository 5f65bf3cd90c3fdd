"""FeatureBackbone against timm's own networks, most of them timm's tiny test networks."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from fastalign.errors import ConfigError
from fastalign.nn import FeatureBackbone

# Kinds of networks that timm takes features from in different ways.
CONVOLUTIONAL = ("tf_efficientnet_lite0", "test_resnet", "test_byobnet", "test_convnext")
WHOLE = ("test_vit", "test_vit3", "test_mambaout")
# Networks that take one size of images only.
FIXED_SIZE = ("test_vit3", "test_coatnet")


def images(batch: int = 2, height: int = 64, width: int = 96) -> Tensor:
    return torch.rand(batch, 3, height, width)


def lively(network: nn.Module) -> None:
    """Statistics and affine maps of BatchNorm that change something."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)


def timms(backbone: FeatureBackbone, name: str, **options) -> nn.Module:
    """timm's features network with the weights of the backbone, which lists them in its order."""
    network = timm.create_model(name, features_only=True, pretrained=False, **options).eval()
    state = network.state_dict()
    own = {
        key: value
        for key, value in backbone.state_dict().items()
        if not key.endswith(("normalise.mean", "normalise.std"))
    }
    assert len(own) <= len(state)
    state.update(zip(list(state)[: len(own)], own.values(), strict=True))
    network.load_state_dict(state)
    return network


# Outputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "test_resnet", "test_byobnet"])
def test_features_are_those_of_timm_on_normalised_images(name):
    backbone = FeatureBackbone(name).eval()
    lively(backbone)
    settings = timm.get_pretrained_cfg(name)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (settings.mean, settings.std))
    x = images()
    network = timms(backbone, name)
    by_stride = dict(zip(network.feature_info.reduction(), network((x - mean) / std), strict=True))
    outputs = backbone(x)
    assert backbone.reductions == (4, 8, 16)
    for output, stride, channels in zip(
        outputs, backbone.reductions, backbone.channels, strict=True
    ):
        assert output.shape == (2, channels, 64 // stride, 96 // stride)
        torch.testing.assert_close(output, by_stride[stride], rtol=1e-3, atol=1e-4)


def test_the_defaults_of_the_networks_in_the_documentation():
    backbone = FeatureBackbone()
    assert backbone.name == "tf_efficientnet_lite0"
    assert backbone.layers == ("blocks.1", "blocks.2", "blocks.4")
    assert backbone.channels == (24, 40, 112) and backbone.reductions == (4, 8, 16)
    assert FeatureBackbone("test_resnet").layers == ("layer1", "layer2", "layer3")
    assert "'tf_efficientnet_lite0', layers=('blocks.1'" in repr(backbone)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_stages_one_by_one_are_the_whole_network(name):
    backbone = FeatureBackbone(name).eval()
    lively(backbone)
    x = images()
    whole = backbone(x)
    assert backbone.splittable and len(backbone.stages()) == len(whole) == len(backbone.layers)
    for index, expected in enumerate(whole):
        x = backbone.forward_stage(index, x)
        assert torch.equal(x, expected)


def test_layers_behind_the_last_one_are_not_kept():
    short, long = FeatureBackbone(layers=[0]), FeatureBackbone(layers=[0, 4])
    count = {b: sum(p.numel() for p in b.parameters()) for b in (short, long)}
    assert count[short] < 0.01 * count[long]


@pytest.fixture(scope="module")
def everything() -> FeatureBackbone:
    """All layers that can be asked for."""
    layers = ["conv_stem", "bn1", *(f"blocks.{i}" for i in range(7))]
    return FeatureBackbone(layers=layers, weights="embedded").eval()


@pytest.mark.parametrize(
    ("given", "layers"),
    [
        ([0, 2], ("blocks.0", "blocks.2")),
        ([-1], ("blocks.6",)),
        (["blocks.1", "blocks.4"], ("blocks.1", "blocks.4")),
        ([1, "blocks.4"], ("blocks.1", "blocks.4")),
        (["conv_stem"], ("conv_stem",)),
        (["bn1", "blocks.3"], ("bn1", "blocks.3")),
    ],
)
def test_layers_by_index_or_name(given, layers, everything):
    backbone = FeatureBackbone(layers=given, weights="embedded").eval()
    assert backbone.layers == layers
    outputs = backbone(images())
    assert [output.shape[1] for output in outputs] == list(backbone.channels)
    assert [64 // output.shape[2] for output in outputs] == list(backbone.reductions)
    # Whatever else is asked for, a layer gives the same.
    x = images()
    named = dict(zip(everything.layers, everything(x), strict=True))
    for layer, output in zip(layers, backbone(x), strict=True):
        torch.testing.assert_close(output, named[layer], rtol=1e-4, atol=1e-5)


def test_a_layer_beside_the_features_of_a_network_of_fixed_size():
    backbone = FeatureBackbone("test_coatnet", ["stem", "stages.1"]).eval()
    outputs = backbone(images(1, 160, 160))
    for output, channels, stride in zip(
        outputs, backbone.channels, backbone.reductions, strict=True
    ):
        assert output.shape == (1, channels, 160 // stride, 160 // stride)


def test_odd_sizes_and_an_empty_batch():
    backbone = FeatureBackbone().eval()
    assert [tuple(f.shape) for f in backbone(torch.rand(1, 3, 33, 50))] == [
        (1, 24, 9, 13),
        (1, 40, 5, 7),
        (1, 112, 3, 4),
    ]
    assert backbone(torch.rand(0, 3, 32, 32))[0].shape == (0, 24, 8, 8)


# Networks that cannot be split ---------------------------------------------------------------


@pytest.mark.parametrize("name", WHOLE)
def test_a_network_that_cannot_be_split_runs_as_a_whole(name):
    backbone = FeatureBackbone(name).eval()
    assert not backbone.splittable
    outputs = backbone(images(2, 160, 160))
    for output, channels, stride in zip(
        outputs, backbone.channels, backbone.reductions, strict=True
    ):
        assert output.shape == (2, channels, 160 // stride, 160 // stride)
    with pytest.raises(ConfigError, match=f"backbone {name} cannot be run stage by stage.*resnet"):
        backbone.stages()
    with pytest.raises(ConfigError, match="stage by stage"):
        backbone.forward_stage(0, images())


def test_layers_of_a_transformer_by_index_and_name():
    by_index = FeatureBackbone("test_vit", [1, 4]).eval()
    assert by_index.layers == ("blocks.1", "blocks.4")
    by_name = FeatureBackbone("test_vit", ["blocks.1", "blocks.4"]).eval()
    by_name.load_state_dict(by_index.state_dict())
    x = images(1, 160, 160)
    first, second = by_index(x), by_name(x)
    assert len(first) == 2 and not torch.equal(first[0], first[1])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_weights_of_a_transformer_are_those_of_one_draw():
    """The network is made twice; the second must not draw other numbers."""
    torch.manual_seed(3)
    backbone = FeatureBackbone("test_vit", [2])
    after = torch.rand(1)
    torch.manual_seed(3)
    network = timm.create_model("test_vit", features_only=True)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(
        backbone.state_dict()["_whole.model.blocks.0.attn.qkv.weight"],
        network.state_dict()["model.blocks.0.attn.qkv.weight"],
    )


# Freezing ------------------------------------------------------------------------------------


def test_a_frozen_backbone_never_trains():
    backbone = FeatureBackbone().train()
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    nn.Sequential(backbone).train()
    backbone(images())
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_gradients_pass_a_frozen_backbone_to_the_images():
    x = images().requires_grad_()
    sum(output.sum() for output in FeatureBackbone()(x)).backward()
    assert x.grad.any()


def test_a_trainable_backbone_trains():
    backbone = FeatureBackbone(trainable=True).train()
    before = backbone.state_dict()["_stages.0.bn1.running_mean"].clone()
    sum(output.square().sum() for output in backbone(images())).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    assert not torch.equal(backbone.state_dict()["_stages.0.bn1.running_mean"], before)
    assert not backbone.eval().stages()[0].training


# Memory format and fusing --------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_format_of_weights_and_outputs(channels_last):
    backbone = FeatureBackbone(channels_last=channels_last).eval()
    weight = backbone.state_dict()["_stages.0.conv_stem.weight"]
    form = torch.channels_last if channels_last else torch.contiguous_format
    assert weight.is_contiguous(memory_format=form)
    for output in backbone(images()):
        assert output.is_contiguous(memory_format=form)


def test_both_memory_formats_give_the_same():
    first = FeatureBackbone(weights="embedded", channels_last=True).eval()
    second = FeatureBackbone(weights="embedded", channels_last=False).eval()
    x = images()
    for a, b in zip(first(x), second(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted({*CONVOLUTIONAL, *WHOLE, *FIXED_SIZE}))
def test_fusing_keeps_the_outputs(name):
    side = 160 if name in FIXED_SIZE else 64
    backbone = FeatureBackbone(name).eval()
    lively(backbone)
    x = images(2, side, side)
    before = backbone(x)
    assert not backbone.is_fused
    assert backbone.fuse() is backbone and backbone.is_fused
    for expected, output in zip(before, backbone(x), strict=True):
        torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
    left = sum(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    # Those that normalise the input of a block, which its shortcut uses as well.
    assert left == (2 if name == "test_coatnet" else 0)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_a_stage_that_ends_between_a_convolution_and_its_batchnorm_keeps_both():
    backbone = FeatureBackbone(layers=["conv_stem", "bn1"]).eval()
    lively(backbone)
    x = images()
    before = backbone(x)
    for expected, output in zip(before, backbone.fuse()(x), strict=True):
        torch.testing.assert_close(output, expected)


def test_fusing_twice_is_fusing_once():
    backbone = FeatureBackbone().eval().fuse()
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.fuse()
    assert all(torch.equal(backbone.state_dict()[name], value) for name, value in state.items())


def test_fused_weights_load_into_a_fused_backbone():
    first = FeatureBackbone(weights="embedded").eval().fuse()
    second = FeatureBackbone().eval().fuse()
    second.load_state_dict(first.state_dict())
    x = images()
    assert all(torch.equal(a, b) for a, b in zip(first(x), second(x), strict=True))
    with pytest.raises(RuntimeError, match="bn1"):
        second.load_state_dict(FeatureBackbone().state_dict())


def test_a_trainable_backbone_cannot_be_fused():
    with pytest.raises(ConfigError, match="trainable backbone cannot be fused"):
        FeatureBackbone(trainable=True).fuse()


def test_weights_that_are_replaced_use_up_no_random_numbers():
    state = torch.get_rng_state()
    FeatureBackbone(weights="embedded").fuse()
    assert torch.equal(torch.get_rng_state(), state)


# Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet17"}, "'resnet17' is not a timm network; did you mean resnet"),
        ({"name": "no such thing"}, "'no such thing' is not a timm network; see timm.list_models"),
        ({"layers": [5]}, "has no layer 5; expected an index below 5 or one of conv_stem, bn1"),
        ({"layers": [-6]}, "has no layer -6; expected an index"),
        ({"layers": ["blocks.9"]}, "has no layer 'blocks.9'; expected .*blocks.6"),
        ({"layers": []}, r"are \[\], expected at least one"),
        ({"layers": [2, 1]}, r"are \[2, 1\], expected .*each once and in the order"),
        ({"layers": [1, "blocks.1"]}, r"are \[1, 'blocks.1'\], expected .*each once"),
        (
            {"name": "test_resnet", "weights": "embedded"},
            "weights='embedded' exist for tf_efficientnet_lite0 only, not for test_resnet",
        ),
        ({"name": "test_vit", "layers": ["blocks.99"]}, "test_vit has no layer 'blocks.99'"),
    ],
)
def test_networks_and_layers_that_do_not_exist_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        FeatureBackbone(**options)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 32, 32, 3)])
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "test_vit"])
def test_images_of_another_shape_are_refused(name, shape):
    with pytest.raises(ValueError, match=r"images have shape \[.*expected \[B, 3, H, W\]"):
        FeatureBackbone(name)(torch.zeros(shape))
