"""timm's networks with their weights, cut into stages that can be called one by one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastalign.errors import ConfigError, InputError, first_line
from fastalign.nn import weights as weight_files
from fastalign.nn.networks import load_timm

# Defaults take the last output at each of these strides: the three PaDiM uses.
STRIDES = (4, 8, 16)


class Normalise(nn.Module):
    """``(images - mean) / std`` by channel, for images in 0..1."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    if TYPE_CHECKING:  # nn.Module types calls as Any
        __call__ = forward


def features_network(name: str, **options: Any) -> Any:
    """timm's network ``name`` with its intermediate features.

    Raises:
        ConfigError: there is none, or it does not offer them.
    """
    timm = load_timm()

    try:
        return timm.create_model(name, features_only=True, **options)
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
        if timm.is_model(name):
            raise ConfigError(
                f"backbone {name} does not offer intermediate features ({error}); choose another "
                "timm network"
            ) from error
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models()"
        raise ConfigError(f"backbone {name!r} is not a timm network; {hint}") from error


@cache
def _layout(name: str) -> Any:
    """timm's whole network without numbers: weights are named and shaped as in it."""
    return load_timm().create_model(name, pretrained=False).to("meta")


def create_network(
    name: str, weights: str | Path | None
) -> tuple[Any, Sequence[float], Sequence[float]]:
    """timm's features network with its weights, and the mean and std of its input."""
    timm = load_timm()

    network = features_network(name, pretrained=False)
    settings = timm.get_pretrained_cfg(name, allow_unregistered=True)
    mean = settings.mean if settings else timm.data.IMAGENET_DEFAULT_MEAN
    std = settings.std if settings else timm.data.IMAGENET_DEFAULT_STD
    if weights is None:
        return network, mean, std
    if weights == "hub":
        try:
            return timm.create_model(name, features_only=True, pretrained=True), mean, std
        except Exception as error:
            # Hub clients raise their own kinds for a missing network, a proxy, a missing file.
            reason = first_line(error)
            raise InputError(
                f"pretrained weights of {name} cannot be downloaded ({reason}); download them "
                "elsewhere and give them with --weights FILE"
            ) from error
    whole = _layout(name)
    if weights == "embedded":
        tensors = weight_files.embedded_tensors(whole)
        weight_files.load_into(network, whole, tensors, "the embedded weights file")
        return network, weight_files.EMBEDDED_MEAN, weight_files.EMBEDDED_STD
    path = Path(weights)
    tensors = weight_files.read_tensors(path)
    weight_files.load_into(network, whole, tensors, f"weights file {path}")
    return network, mean, std


def sample_size(name: str) -> tuple[int, int]:
    """Height and width of images to try a network on: small, unless it takes one size only."""
    timm = load_timm()

    settings = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if settings is None or not settings.fixed_input_size:
        return 64, 64
    return settings.input_size[1], settings.input_size[2]


def own_size(name: str) -> tuple[int, int]:
    """Height and width of the images that a network was made for."""
    settings = load_timm().get_pretrained_cfg(name, allow_unregistered=True)
    return (224, 224) if settings is None else (settings.input_size[1], settings.input_size[2])


def chain_of(network: Any, layers: list[str]) -> dict[str, nn.Module] | None:
    """The network as modules called one after the other, by their name in timm's whole network;
    None where it is no such chain, or where a feature is taken from inside one of them."""
    from timm.models import FeatureListNet

    chain: dict[str, nn.Module] = {}
    if type(network) is FeatureListNet:
        if "NHWC" in str(network.output_fmt).upper():
            return None
        # Some networks list more features than they give by default.
        given = network.feature_info.module_name()
        outputs = dict(zip(network.return_layers, given, strict=True))
        chain = {outputs.get(key, key): module for key, module in network.items()}
    elif all(hasattr(network, part) for part in ("conv_stem", "bn1", "blocks")):
        if getattr(network, "feature_hooks", None) is not None:
            return None
        chain = {"conv_stem": network.conv_stem, "bn1": network.bn1}
        chain |= {f"blocks.{index}": block for index, block in enumerate(network.blocks)}
    return chain if chain and all(layer in chain for layer in layers) else None


def resolve_layers(
    name: str,
    layers: Sequence[int | str] | None,
    available: dict[str, tuple[int, int]],
    order: list[str],
    strides: Sequence[int] = STRIDES,
) -> tuple[str, ...]:
    """Module names of ``layers``, checked to exist and to come in the order of computation; None:
    the last at each of the strides."""
    indexed = list(available)
    if layers is None:
        last = {stride: layer for layer, (_, stride) in available.items() if stride in strides}
        return tuple(last.values()) or (indexed[-1],)
    resolved = []
    for layer in layers:
        if isinstance(layer, int) and -len(indexed) <= layer < len(indexed):
            resolved.append(indexed[layer])
        elif isinstance(layer, str) and layer in order:
            resolved.append(layer)
        else:
            raise ConfigError(
                f"backbone {name} has no layer {layer!r}; expected an index below {len(indexed)} "
                f"or one of {', '.join(order)}"
            )
    positions = [order.index(layer) for layer in resolved]
    if not resolved or positions != sorted(set(positions)):
        raise ConfigError(
            f"layers of backbone {name} are {list(layers)}, expected at least one, each once and "
            f"in the order of computation: {', '.join(order)}"
        )
    return tuple(resolved)


def split(chain: dict[str, nn.Module], ends: Sequence[str], first: nn.Module) -> nn.ModuleList:
    """The chain cut behind each of ``ends``; what comes behind the last one is left out."""
    stages = nn.ModuleList()
    stage = nn.Sequential()
    stage.add_module("normalise", first)
    for name, module in chain.items():
        stage.add_module(name.replace(".", "_"), module)
        if name in ends:
            stages.append(stage)
            stage = nn.Sequential()
        if len(stages) == len(ends):
            break
    return stages


def with_outputs(
    name: str, network: Any, available: Mapping[str, Any], layers: Sequence[str]
) -> Any:
    """timm's network ``name`` with the weights of ``network`` and these outputs alone.

    Raises:
        ConfigError: it cannot give them.
    """
    indices = [list(available).index(layer) for layer in layers]
    # Weights that are replaced at once must not use up the caller's random numbers.
    with torch.random.fork_rng(devices=[]):
        ending = features_network(name, out_indices=indices)
        try:
            ending.load_state_dict(network.state_dict(), strict=False)
        except RuntimeError as error:
            raise ConfigError(
                f"backbone {name} cannot give the layers {', '.join(layers)} alone "
                f"({str(error).splitlines()[-1].strip()}); choose other layers or another network"
            ) from error
    return ending
