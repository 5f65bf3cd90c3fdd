"""What a network computes in, and that float32 is float32 whatever the caller lets torch do."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from fastalign.errors import ConfigError
from fastalign.nn import FeatureBackbone
from fastalign.nn import backbone as backbones
from fastalign.nn.float32 import unrounded
from fastalign.nn.precision import check_precision, rounding
from fastalign.nn.state import own_state

CPU = torch.device("cpu")
NETWORK = "test_resnet"


@pytest.fixture
def half_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 bits on this processor, which may be slow and gives the same."""
    monkeypatch.setattr(backbones, "missing_precision", lambda *_: None)
    monkeypatch.setattr(backbones, "check_precision", lambda *_: None)


def images(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 64, 96)


# A network ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [
        ("half", None, "precision 'half': use one of float32, tf32, bfloat16, float16"),
        ("tf32", CPU, "precision tf32 on cpu: tf32 is of GPUs; use float32"),
        ("float16", CPU, "precision float16 on cpu: float16 is of GPUs"),
        ("bfloat16", torch.device("meta"), "precision bfloat16 on meta: not on meta"),
    ],
)
def test_a_device_without_a_precision_says_so(precision, device, message):
    with pytest.raises(ConfigError, match=message):
        check_precision(precision, device)


@pytest.mark.parametrize("missing", [False, True])
def test_bfloat16_needs_a_processor_with_instructions_for_it(monkeypatch, missing):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: not missing)
    if missing:
        with pytest.raises(ConfigError, match="no instructions for bfloat16"):
            check_precision("bfloat16", CPU)
    else:
        check_precision("bfloat16", CPU)


@pytest.mark.parametrize(("precision", "bits"), [("bfloat16", 8), ("float16", 11)])
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", NETWORK, "test_vit"])
def test_sixteen_bits_give_nearly_the_same_features(half_anywhere, name, precision, bits):
    backbone = FeatureBackbone(name).eval().fuse()
    x = torch.rand(1, 3, 160, 160) if name == "test_vit" else images()
    wanted, state = backbone(x), copy.deepcopy(backbone.state_dict())
    found = backbone.run_in(precision)(x)
    assert backbone.precision == precision
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        error = (one - other).abs().max() / other.abs().max()
        # Some ten roundings in a row; less would mean that nothing was rounded.
        assert 2.0 ** -(bits + 6) < error < 2.0 ** -(bits - 5)
    # What is saved has nothing of it.
    for key, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, state[key])
    again = backbone.run_in("float32")(x)
    assert all(torch.equal(one, other) for one, other in zip(again, wanted, strict=True))


def test_stages_pieces_and_copies_compute_in_it_too(half_anywhere):
    backbone = FeatureBackbone(NETWORK).eval().fuse().run_in("bfloat16")
    x = images(1)
    wanted = backbone(x)
    maps = x
    for index, other in enumerate(wanted):
        maps = backbone.forward_stage(index, maps)
        assert torch.equal(maps, other)
    assert all(map(torch.equal, copy.deepcopy(backbone)(x), wanted))
    pieces = backbone.limit_memory(2e5)(x)
    for one, other in zip(pieces, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.02 * float(other.abs().max()))
    assert backbone.up_to(0).precision == "float32"


def test_new_weights_are_what_is_computed_with(half_anywhere):
    backbone, other = (FeatureBackbone(NETWORK).eval().fuse() for _ in range(2))
    x = images(1)
    wanted = other.run_in("bfloat16")(x)
    backbone.run_in("bfloat16").load_state_dict(other.state_dict())
    assert all(map(torch.equal, backbone(x), wanted))


def test_elsewhere_it_is_the_default_and_comes_back(half_anywhere, monkeypatch):
    backbone = FeatureBackbone(NETWORK).eval().run_in("float16")
    monkeypatch.setattr(backbones, "missing_precision", lambda *_: "not here")
    assert backbone.to("cpu").precision == "float32"
    monkeypatch.setattr(backbones, "missing_precision", lambda *_: None)
    assert backbone.to("cpu").precision == "float16"


def test_what_is_trained_is_float32(half_anywhere):
    with pytest.raises(ConfigError, match="a trainable backbone computes in float32"):
        FeatureBackbone(NETWORK, trainable=True).run_in("bfloat16")


# tf32 -----------------------------------------------------------------------------------------


@pytest.fixture
def rounded(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What each convolution that is asked for with a precision of its own was told."""
    told: list[bool] = []

    def convolution(x, weight, bias, stride, padding, dilation, transposed, out, groups, *switches):
        assert not transposed and tuple(out) == (0, 0)
        told.append(switches[-1])
        return F.conv2d(x, weight, bias, tuple(stride), tuple(padding), tuple(dilation), groups)

    monkeypatch.setattr(torch, "_convolution", convolution)
    return told


def test_tf32_is_of_convolutions_on_a_gpu_without_gradients(rounded):
    with FakeTensorMode():
        there = torch.empty(1, 4, 8, 8, device="cuda")
        weight = torch.empty(6, 2, 3, 3, device="cuda")
        with rounding("tf32"):
            assert F.conv2d(there, weight, None, 2, (1, 0), groups=2).shape == (1, 6, 4, 3)
            assert rounded == [True]
            F.conv2d(there, weight, padding="same", groups=2)
            F.conv2d(there.requires_grad_(), weight, groups=2)
            F.conv2d(torch.empty(1, 2, 8, 8), torch.empty(2, 2, 3, 3))
        F.conv2d(there, weight, groups=2)
    assert rounded == [True]


def test_tf32_is_of_one_thread(rounded):
    def elsewhere() -> None:
        with FakeTensorMode():
            F.conv2d(torch.empty(1, 2, 8, 8, device="cuda"), torch.empty(2, 2, 3, 3, device="cuda"))

    with rounding("tf32"):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert rounded == []


# The caller's switches ------------------------------------------------------------------------


def _new() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.mkldnn.conv.fp32_precision = "bf16"
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    torch.backends.cudnn.rnn.fp32_precision = "ieee"


def _old() -> None:
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True


def _all() -> None:
    torch.backends.fp32_precision = "tf32"


def switches() -> list[object]:
    """Everything that torch tells of them, by either way."""

    def told(ask: Callable[[], object]) -> object:
        try:
            return ask()
        except RuntimeError:
            return "mixed"

    cuda, mkldnn = torch.backends.cuda, torch.backends.mkldnn
    parts = [torch.backends.cudnn.conv, torch.backends.cudnn.rnn, cuda.matmul]
    parts += [mkldnn.matmul, mkldnn.conv, torch.backends]
    asked = [lambda: torch.backends.cudnn.allow_tf32, lambda: cuda.matmul.allow_tf32]
    asked.append(torch.get_float32_matmul_precision)
    return [*(part.fp32_precision for part in parts), *map(told, asked)]


@pytest.fixture
def caller() -> Iterator[None]:
    """Puts torch's switches back to what torch begins with."""
    yield
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for part in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
        part.fp32_precision = "none"
    torch.backends.mkldnn.conv.fp32_precision = "none"


@pytest.mark.parametrize("choose", [lambda: None, _new, _old, _all])
def test_float32_is_unrounded_and_the_switches_come_back(caller, monkeypatch, choose):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    choose()
    before = switches()
    with own_state(), unrounded():
        within = switches()
        assert not {"tf32", "bf16"} & {within[0], within[2], within[3], within[4]}
        if "mixed" not in before:
            # torch.compile asks.
            assert "mixed" not in within
    assert switches() == before


def test_the_last_of_several_threads_puts_them_back(caller):
    torch.set_float32_matmul_precision("high")
    entered, leave = threading.Event(), threading.Event()

    def elsewhere() -> None:
        with unrounded():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=elsewhere)
    with unrounded():
        thread.start()
        entered.wait()
    assert torch.get_float32_matmul_precision() == "highest"
    leave.set()
    thread.join()
    assert torch.get_float32_matmul_precision() == "high"
