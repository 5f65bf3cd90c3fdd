"""Stages in pieces give the features of the whole, and their needs are counted right."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fastalign.errors import ConfigError
from fastalign.nn import FeatureBackbone, tiling
from fastalign.nn.tiling import Reach, Tiler, peak_bytes


class Same(nn.Module):
    """A strided convolution padded as TensorFlow does, by the length of its input."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, stride)
        self.kernel, self.stride = kernel, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads = []
        for length in (x.shape[3], x.shape[2]):
            missing = (math.ceil(length / self.stride) - 1) * self.stride + self.kernel - length
            pads += [max(0, missing) // 2, max(0, missing) - max(0, missing) // 2]
        return self.conv(nn.functional.pad(x, pads))


STAGES = {
    "same": lambda: nn.Sequential(Same(4, 3, 2), nn.ReLU6(), Same(4, 5, 2), nn.Hardswish()),
    "symmetric": lambda: nn.Sequential(
        nn.Conv2d(4, 4, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
    ),
    "patches": lambda: nn.Sequential(nn.Conv2d(4, 8, 4, 4), nn.Conv2d(8, 4, 7, 1, 3), nn.GELU()),
    "dilated": lambda: nn.Conv2d(4, 4, 3, 1, 3, dilation=3),
    "pointwise": lambda: nn.Conv2d(4, 4, 1),
    "lopsided": lambda: nn.Conv2d(4, 4, (1, 5), 1, (0, 2)),
}


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("size", [(96, 96), (97, 131), (126, 99), (64, 203)])
def test_pieces_are_the_whole(name, size):
    stage = STAGES[name]().double()
    tiler = Tiler(stage, 4, name)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    with torch.no_grad():
        whole = stage(x)
        for share in (1.5, 5, 40):
            pieces = tiler(x, tiler.bytes_per_pixel * size[0] * size[1] / share)
            assert pieces.shape == whole.shape
            torch.testing.assert_close(pieces, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", STAGES)
def test_pieces_are_small(name):
    """No piece is larger than asked for, unless it would be overlap for the most part."""
    seen = []
    stage = STAGES[name]()
    tiler = Tiler(stage, 4, name)
    tiler.reach(2, 512), tiler.reach(3, 512)
    stage.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[2:].numel()))
    with torch.no_grad():
        tiler(torch.randn(3, 4, 512, 512), tiler.bytes_per_pixel * 512 * 512 / 8)
    assert max(seen) <= 512 * 512 / 8 * 1.05
    assert len(seen) >= 24


@pytest.mark.parametrize("length", [1, 5, 16, 37, 100])
@pytest.mark.parametrize("most", [1, 9, 40, 1000])
@pytest.mark.parametrize("reach", [Reach(1, 0, 0), Reach(1, 2, 1), Reach(4, 1, 2), Reach(2, 3, 0)])
def test_pieces_keep_every_output_once(length, most, reach):
    outputs = []
    total = math.ceil(length / reach.stride)
    for piece, kept in reach.pieces(length, most):
        assert piece.start % reach.stride == 0
        assert (piece.stop - piece.start) % reach.stride == length % reach.stride
        first = piece.start // reach.stride
        here = list(range(first, first + math.ceil((piece.stop - piece.start) / reach.stride)))
        assert kept.start == 0 or kept.start >= reach.before
        assert piece.stop == length or kept.stop <= len(here) - reach.after
        outputs += here[kept]
    assert outputs == list(range(total))


def test_a_stage_that_sees_the_whole_map_is_refused_where_it_does_not_fit():
    class Excited(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return y * y.mean((2, 3), keepdim=True).sigmoid()

    tiler = Tiler(Excited(), 4, "backbone that looks around")
    x = torch.rand(2, 4, 32, 32)
    tiler(x, tiler.bytes_per_pixel * 32 * 32)
    with pytest.raises(ConfigError, match=r"backbone that looks around .* whole image"):
        tiler(x, tiler.bytes_per_pixel * 32 * 16)


def test_the_backbone_gives_the_same_features_in_pieces():
    backbone = FeatureBackbone(weights="embedded").eval().fuse()
    images = torch.rand(2, 3, 250, 301)
    with torch.inference_mode():
        whole = backbone.limit_memory(math.inf)(images)
        pieces = backbone.limit_memory(backbone.image_bytes(250, 301) / 4)(images)
    for a, b in zip(whole, pieces, strict=True):
        # The same sums; kernels for another size may take them in another order.
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-4)


def test_bytes_are_those_alive_at_once():
    def call() -> None:
        a = torch.empty(1000, dtype=torch.uint8)
        b = torch.cat([a, a])
        del a
        b.add_(1).view(-1)[:5]
        c = torch.empty(500, dtype=torch.uint8)
        del b, c

    assert peak_bytes(call) == 3000
    stage = STAGES["pointwise"]()
    # Four channels in float32, as a piece and as the result.
    assert Tiler(stage, 4, "").bytes_per_pixel == 2 * 4 * 4


def test_bytes_are_counted_once_for_stages_of_one_kind(monkeypatch):
    counts = []
    count = Tiler._count
    monkeypatch.setattr(Tiler, "_count", lambda tiler: counts.append(tiler) or count(tiler))
    monkeypatch.setattr(tiling, "_counted", {})

    def made(*layers: int) -> FeatureBackbone:
        return FeatureBackbone("test_resnet", layers)

    # Another stage for each cut, one that is folded, and numbers of another size.
    kinds = [made(1, 2), made(1, 2), made(1, 2).up_to(0)]
    kinds += [made(1, 2).eval().fuse(), made(0, 2), made(1, 2).double()]
    found = [(backbone.image_bytes(64, 64), len(counts)) for backbone in kinds]
    assert [number for _, number in found] == [2, 2, 2, 4, 6, 8]
    assert found[0][0] == found[1][0] < found[-1][0]
