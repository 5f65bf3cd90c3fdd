"""Exported files opened in their own runtimes, one way to call them all."""

from __future__ import annotations

import importlib.util
import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastalign.errors import ArtifactError, BackendError, extra, first_line
from fastalign.export.scorer import OUTPUTS
from fastalign.export.writers import KEY

Arrays = dict[str, npt.NDArray[Any]]
Run = Callable[[npt.NDArray[Any]], Arrays]


@dataclass(frozen=True)
class Opened:
    """A file that is ready to run.

    Attributes:
        kind: its format, a name of ``fastalign.export.FORMATS``.
        runtime: what runs it, with its version.
        contract: what it says of itself.
        run: images as the contract wants them to its outputs by name.
    """

    kind: str
    runtime: str
    contract: Mapping[str, Any]
    run: Run


def open_exported(path: Path) -> Opened:
    """Open a file of ``fastalign export``.

    Raises:
        ArtifactError: it is missing, damaged, or of another kind.
        BackendError: its runtime is not installed.
    """
    openers = {".onnx": _open_onnx, ".xml": _open_openvino, ".pt2": _open_torch}
    if path.suffix not in openers:
        raise ArtifactError(
            f"{path}: files of fastalign export end with {', '.join(openers)}; give one of them."
        )
    if not path.is_file():
        raise ArtifactError(f"{path}: there is no such file; give one of fastalign export.")
    try:
        kind, runtime, text, run = openers[path.suffix](path)
    except (BackendError, ArtifactError):
        raise
    except Exception as error:
        # Every runtime has kinds of errors of its own for a file that it cannot load.
        line = first_line(error)
        raise ArtifactError(
            f"{path}: cannot be loaded ({line}); it is damaged, or a file that belongs to it is "
            "missing: export the model again."
        ) from error
    try:
        contract = json.loads(text)
        if contract["format"] != "fastalign-export":
            raise ValueError(contract["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path}: says nothing of itself under the key {KEY}, so fastalign export did not "
            "write it; export the model again."
        ) from error
    return Opened(kind, runtime, contract, run)


_Parts = tuple[str, str, str, Run]


def _require(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise BackendError(
            f"{name}, which runs this file, is not installed; install it with: {extra('export')}"
        )


def _open_onnx(path: Path) -> _Parts:
    _require("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    text = session.get_modelmeta().custom_metadata_map.get(KEY, "")

    def run(images: npt.NDArray[Any]) -> Arrays:
        found = session.run(list(OUTPUTS), {"images": images})
        return dict(zip(OUTPUTS, found, strict=True))

    return "onnx", f"onnxruntime {onnxruntime.__version__}", text, run


def _open_openvino(path: Path) -> _Parts:
    _require("openvino")
    import openvino

    model = openvino.Core().read_model(path)
    if not model.has_rt_info([KEY]):
        return "openvino", "", "", lambda images: {}
    text = model.get_rt_info([KEY]).astype(str)
    compiled = openvino.compile_model(model, "CPU", json.loads(text).get("openvino", {}))

    def run(images: npt.NDArray[Any]) -> Arrays:
        found = compiled(images)
        return {name: np.array(found[name]) for name in OUTPUTS}

    return "openvino", f"OpenVINO {openvino.__version__.partition('-')[0]}", text, run


def _open_torch(path: Path) -> _Parts:
    import torch

    with zipfile.ZipFile(path) as archive:
        compiled = any("/data/aotinductor/" in f"/{name}" for name in archive.namelist())
    runtime = f"torch {torch.__version__}"
    if compiled:
        package = torch._inductor.aoti_load_package(str(path))
        about = package.get_metadata()
        device = about.get("AOTI_DEVICE_KEY", "cpu")

        def of_package(images: npt.NDArray[Any]) -> Arrays:
            return _named(package(torch.from_numpy(images).to(device)))

        return "aotinductor", runtime, about.get(KEY, ""), of_package
    files = {KEY: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(path, extra_files=files).module()

    def of_program(images: npt.NDArray[Any]) -> Arrays:
        with torch.inference_mode():
            return _named(module(torch.from_numpy(images)))

    return "torch", runtime, files[KEY], of_program


def _named(values: Any) -> Arrays:
    found = [value.detach().cpu().numpy() for value in values]
    return dict(zip(OUTPUTS, found, strict=True))
