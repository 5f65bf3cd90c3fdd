"""Networks that OpenVINO computes, and when torch does."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from torch.func import grad

from fastalign.errors import BackendError, ConfigError
from fastalign.nn import FeatureBackbone, openvino_network, runtime
from fastalign.nn.openvino_network import PARITY, OpenvinoNetwork
from fastalign.nn.runtime import Chosen, check_runtime, chosen_on

NETWORK = "test_resnet"
CPU = torch.device("cpu")

needs_openvino = pytest.mark.skipif(
    runtime.missing_openvino() is not None, reason=f"{runtime.missing_openvino()}"
)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installation without OpenVINO."""
    find = runtime.importlib.util.find_spec
    monkeypatch.setattr(
        runtime.importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name)
    )
    runtime.missing_openvino.cache_clear()
    yield
    runtime.missing_openvino.cache_clear()


def images(batch: int = 2, size: tuple[int, int] = (64, 96)) -> Tensor:
    return torch.rand(batch, 3, *size)


def made(name: str = NETWORK, runtime: str = "openvino") -> FeatureBackbone:
    return FeatureBackbone(name).eval().fuse().run_by(runtime)


def by_torch(backbone: FeatureBackbone, x: Tensor) -> list[Tensor]:
    return copy.deepcopy(backbone).run_by("torch")(x)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of OpenVINO had."""
    seen: list[int] = []
    call = openvino_network._Compiled.__call__

    def counting(self: object, x: Tensor) -> list[Tensor]:
        seen.append(len(x))
        return call(self, x)

    monkeypatch.setattr(openvino_network._Compiled, "__call__", counting)
    return seen


# The choice ---------------------------------------------------------------------------------


def test_a_runtime_that_there_is_not_is_named(absent, monkeypatch):
    with pytest.raises(ConfigError, match="runtime 'onnx': use one of auto, torch, openvino"):
        check_runtime("onnx")
    with pytest.raises(BackendError, match=r"OpenVINO is not installed; install.*\[openvino\]"):
        FeatureBackbone(NETWORK).run_by("openvino")
    with pytest.raises(ConfigError, match="runtime openvino on meta: .* use torch or auto"):
        FeatureBackbone(NETWORK).to("meta").run_by("openvino")
    monkeypatch.setenv(runtime.ENVIRONMENT, "onnx")
    with pytest.raises(ConfigError, match="FASTALIGN_RUNTIME=onnx: use one of auto, torch"):
        chosen_on(CPU)


def test_without_openvino_torch_computes_and_says_why(absent, monkeypatch):
    monkeypatch.delenv(runtime.ENVIRONMENT)
    backbone = made(runtime="auto")
    assert backbone.chosen(64, 96) == Chosen("torch", "OpenVINO is not installed")
    assert backbone(images())[0].shape[0] == 2


def test_auto_is_for_what_was_measured(monkeypatch):
    monkeypatch.setenv(runtime.ENVIRONMENT, "torch")
    assert chosen_on(CPU) == Chosen("torch", "FASTALIGN_RUNTIME=torch")
    assert chosen_on(CPU, "torch") == Chosen("torch")
    monkeypatch.setattr(runtime, "missing_openvino", lambda: None)
    monkeypatch.delenv(runtime.ENVIRONMENT)
    monkeypatch.setattr(runtime.platform, "machine", lambda: "aarch64")
    assert chosen_on(CPU) == Chosen("torch", "OpenVINO was not measured on aarch64")
    assert chosen_on(CPU, "openvino") == Chosen("openvino")
    assert chosen_on(torch.device("cuda")).reason == "OpenVINO is for processors, not for cuda"


# What it gives ------------------------------------------------------------------------------


@needs_openvino
@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", NETWORK, "test_vit", "test_convnext", "test_efficientnet"]
)
def test_networks_give_what_torch_gives(counted, name):
    backbone = made(name)
    x = images(2, (160, 160))
    found, wanted = backbone(x), by_torch(backbone, x)
    assert counted[-1] == 2
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 3 * PARITY * other.abs().max()
    # The others of a batch change nothing.
    alone = backbone(x[1:])
    assert all(torch.equal(one[1:], other) for one, other in zip(found, alone, strict=True))


@needs_openvino
def test_results_are_the_callers(counted):
    backbone = made()
    first = backbone(images(1))
    kept = [maps.clone() for maps in first]
    backbone(images(1).flip(3))
    gc.collect()
    assert all(map(torch.equal, first, kept))
    assert len(counted) == 3  # The first one is the probe.


@needs_openvino
def test_threads_sizes_and_layouts_beside_each_other():
    backbone = made()
    x = [images(1, size) for size in [(64, 96), (64, 64)] * 4]
    x[3] = x[3].contiguous(memory_format=torch.channels_last)
    alone = [backbone(of) for of in x]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(backbone, x), alone, strict=True):
            assert all(map(torch.equal, found, wanted))


@needs_openvino
def test_stage_by_stage_is_the_whole(counted):
    backbone = made()
    maps = x = images(1)
    for index, wanted in enumerate(by_torch(backbone, x)):
        maps = backbone.forward_stage(index, maps)
        torch.testing.assert_close(maps, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    assert len(counted) == 2 * len(backbone.layers)


@needs_openvino
def test_copies_are_converted_anew_and_pickles_hold_nothing_of_it(counted):
    backbone = made()
    x = images(1)
    wanted = backbone(x)
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        before = len(counted)
        assert all(map(torch.equal, other(x), wanted))
        assert len(counted) == before + 2
    assert backbone.up_to(0).asked_runtime == "openvino"


@needs_openvino
def test_changed_weights_are_what_is_computed_with(counted):
    backbone, other = made(), made()
    x = images(1)
    backbone(x)
    backbone.load_state_dict(other.state_dict())
    assert all(map(torch.equal, backbone(x), other(x)))
    with torch.no_grad():
        next(backbone.parameters()).mul_(2)
    wanted = by_torch(backbone, x)[0]
    torch.testing.assert_close(backbone(x)[0], wanted, rtol=0, atol=1e-5 * float(wanted.max()))


# When it is torch ---------------------------------------------------------------------------


@needs_openvino
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*jit.trace:FutureWarning")
def test_torch_computes_what_looks_into_the_network(counted):
    backbone = made()
    x = images(1)
    backbone(x.clone().requires_grad_())[0].sum().backward()
    grad(lambda of: backbone(of)[0].sum())(x)
    torch.jit.trace(lambda of: tuple(backbone(of)), x, check_trace=False)
    torch.export.export(backbone, (x,), strict=False)
    backbone.double()(x.double())
    assert not counted
    backbone.float()
    handle = backbone.stages()[0].register_forward_hook(lambda *_: None)
    assert backbone.chosen(64, 96) == Chosen("torch", "the network has forward hooks")
    handle.remove()
    assert backbone.chosen(64, 96) == Chosen("openvino")
    backbone.limit_memory(1e9)
    assert "memory budget" in backbone.chosen(64, 96).reason
    before = len(counted)
    backbone(x)
    assert len(counted) == before


@needs_openvino
@pytest.mark.parametrize("asked", ["auto", "openvino"])
def test_a_network_that_comes_out_differently_is_left_to_torch(monkeypatch, counted, asked):
    monkeypatch.setattr(runtime, "default_runtime", lambda: "auto")
    monkeypatch.setattr(openvino_network, "PARITY", -1.0)
    backbone = made(runtime=asked)
    if asked == "openvino":
        with pytest.raises(BackendError, match="backbone test_resnet: its maps are off by .* use"):
            backbone(images())
        return
    assert "its maps are off by" in backbone.chosen(64, 96).reason
    backbone(images(1))
    backbone(images(1))
    # The probe alone, once.
    assert counted == [1]


@needs_openvino
def test_a_network_that_is_not_converted_says_so(monkeypatch):
    def failing(*_: object, **__: object) -> None:
        raise RuntimeError("Check 'false' failed at frontend.cpp:53:\nno rule for aten::odd")

    monkeypatch.setattr(torch.jit, "trace", failing)
    with pytest.raises(BackendError, match=r"does not convert it \(no rule for aten::odd\)"):
        made().chosen(64, 96)


@needs_openvino
def test_few_sizes_are_kept(monkeypatch):
    runs = OpenvinoNetwork("float32")
    monkeypatch.setattr(runs, "_make", lambda *_: object())
    module = torch.nn.Identity()
    for side in range(10):
        runs.find("network", module, None, None, (3, side, side), lambda: None)
    assert len(runs._made) == 4


def test_what_is_trained_is_torchs():
    backbone = FeatureBackbone(NETWORK, trainable=True).run_by("auto")
    assert backbone.chosen(64, 96).runtime == "torch"
    if runtime.missing_openvino() is None:
        with pytest.raises(ConfigError, match="a trainable backbone is computed by torch"):
            backbone.run_by("openvino")
