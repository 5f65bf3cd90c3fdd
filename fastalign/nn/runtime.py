"""Which library computes a network on a CPU: torch, or OpenVINO where that is installed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import platform
from typing import Literal, NamedTuple, get_args

import torch

from fastalign.errors import BackendError, ConfigError, extra, first_line

Runtime = Literal["auto", "torch", "openvino"]
RUNTIMES: tuple[str, ...] = get_args(Runtime)
# What ``auto`` stands for, where a user has said so.
ENVIRONMENT = "FASTALIGN_RUNTIME"


class Chosen(NamedTuple):
    """What computes a network, ``"torch"`` or ``"openvino"``, and why it is torch; empty: it was
    asked for."""

    runtime: str
    reason: str = ""

    @property
    def words(self) -> str:
        """Such as ``torch (OpenVINO is not installed)``."""
        return f"{self.runtime} ({self.reason})" if self.reason else self.runtime


@functools.cache
def missing_openvino() -> str | None:
    """Why OpenVINO computes nothing in this process, None: it does."""
    if importlib.util.find_spec("openvino") is None:
        return "OpenVINO is not installed"
    try:
        importlib.import_module("openvino.frontend.pytorch.ts_decoder")
    except Exception as error:
        # Of another release, or without a library of the system: torch does it all the same.
        return f"OpenVINO cannot be loaded ({first_line(error)})"
    return None


def check_runtime(runtime: str, device: torch.device | None = None) -> None:
    """Whether a network can be computed by a runtime on a device, None: some device.

    Raises:
        ConfigError: there is no such runtime, or not on this device.
        BackendError: it is not installed.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(f"runtime {runtime!r}: use one of {', '.join(RUNTIMES)}.")
    if runtime != "openvino":
        return
    if device is not None and device.type != "cpu":
        raise ConfigError(
            f"runtime openvino on {device}: OpenVINO computes on processors here; use torch or "
            "auto, or the device cpu."
        )
    if (reason := missing_openvino()) is not None:
        raise BackendError(
            f"runtime openvino: {reason}; install it with: {extra('openvino')}, or use torch."
        )


def default_runtime() -> str:
    """What ``auto`` stands for: ``auto`` itself, unless ``FASTALIGN_RUNTIME`` says another.

    Raises:
        ConfigError: the variable names no runtime.
    """
    value = os.environ.get(ENVIRONMENT) or "auto"
    if value not in RUNTIMES:
        raise ConfigError(
            f"environment variable {ENVIRONMENT}={value}: use one of {', '.join(RUNTIMES)}, or "
            "unset it."
        )
    return value


def chosen_on(device: torch.device, runtime: str = "auto") -> Chosen:
    """What computes a network on a device, before anything is known of the network."""
    asked = default_runtime() if runtime == "auto" else runtime
    if asked == "torch":
        return Chosen("torch", "" if runtime == "torch" else f"{ENVIRONMENT}=torch")
    if device.type != "cpu":
        return Chosen("torch", f"OpenVINO is for processors, not for {device.type}")
    if (reason := missing_openvino()) is not None:
        return Chosen("torch", reason)
    if asked == "auto" and platform.machine().lower() not in ("x86_64", "amd64"):
        return Chosen("torch", f"OpenVINO was not measured on {platform.machine()}")
    return Chosen("openvino")
