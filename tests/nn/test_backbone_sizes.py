"""Networks that take one size only, or look at the whole image: told, or run, never a riddle."""

import pytest
import torch

from fastalign.errors import ConfigError
from fastalign.nn.backbone import FeatureBackbone
from fastalign.nn.tiling import Tiler


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "gcvit_xxtiny"])
def test_a_network_of_fixed_size_names_it(name):
    network = FeatureBackbone(name).eval()
    with torch.no_grad(), pytest.raises(ConfigError, match=rf"{name}.* 64 x 96 .*224 x 224"):
        network(torch.zeros(1, 3, 64, 96))
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 224, 224))[0].shape[0] == 2


def test_other_errors_of_a_network_are_not_taken_for_its_size():
    network = FeatureBackbone("test_resnet").eval()
    network._features = lambda x: (_ for _ in ()).throw(RuntimeError("out of order"))
    with torch.no_grad(), pytest.raises(RuntimeError, match="out of order"):
        network(torch.zeros(1, 3, 64, 96))


def test_features_listed_beyond_those_given_by_default(tmp_path):
    """dla34 lists six features and gives five."""
    import timm

    whole = timm.create_model("dla34")
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    network = FeatureBackbone("dla34", None, tmp_path / "weights.pth").eval()
    assert network.reductions == (4, 8, 16)
    images = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(whole.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = whole.eval().level2(
            whole.level1(whole.level0(whole.base_layer((images - mean) / std)))
        )
        torch.testing.assert_close(network(images)[0], expected, rtol=1e-4, atol=1e-4)


class SqueezeExcitation(torch.nn.Module):
    def forward(self, x):
        return x * x.mean((2, 3), keepdim=True)


def test_what_cannot_be_cut_runs_whole_unless_a_limit_must_be_kept():
    tiler = Tiler(SqueezeExcitation(), 3, "a stage")
    x = torch.rand(2, 3, 80, 80)
    for _ in range(2):
        assert torch.equal(tiler(x, 1000, must=False), SqueezeExcitation()(x))
    with pytest.raises(ConfigError, match="cannot be run in pieces"):
        tiler(x, 1000)


@pytest.mark.parametrize("must", [False, True])
def test_a_squeeze_and_excitation_network_needs_no_budget_to_run(must):
    network = FeatureBackbone("test_efficientnet").eval()
    images = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        whole = network(images)
        network.limit_memory(1000, must=must)
        if must:
            with pytest.raises(ConfigError, match="cannot be run in pieces"):
                network(images)
        else:
            for ours, theirs in zip(network(images), whole, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
