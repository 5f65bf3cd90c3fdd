"""One writer for each format; each puts its files beside the path that it is given."""

from __future__ import annotations

import importlib.util
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

import torch

from fastalign.errors import BackendError, extra, first_line
from fastalign.export.scorer import OUTPUTS, Scorer

if TYPE_CHECKING:
    from onnx_ir import Graph

# The mark of an operation of OpenVINO that keeps its precision, and its later name.
_EXACT = ("precise", "DisablePrecisionConversion")
# The key of the contract in the metadata of a file.
KEY = "fastalign"
# GridSample and Resize are complete from 16 and 18 on; older runtimes know no later ones.
OPSET = 18


class Format(NamedTuple):
    """How a file is written: its ending, what must be installed, and the writer."""

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[Scorer, Path], None]

    def require(self) -> None:
        """Raise :class:`BackendError` where a package is missing."""
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise BackendError(
                f"this export needs {' and '.join(missing)}, which is not installed; install it "
                f"with: {extra('export')}"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters speak of their own passes, at length."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def write_torch(scorer: Scorer, path: Path) -> None:
    """An ``ExportedProgram``; the contract is its extra file ``fastalign``."""
    with _quiet():
        torch.export.save(scorer.trace(), path, extra_files={KEY: scorer.contract_text()})


def write_aotinductor(scorer: Scorer, path: Path) -> None:
    """A compiled package; the contract is in its metadata."""
    program = scorer.trace()
    metadata = {"aot_inductor.metadata": {KEY: scorer.contract_text()}}
    try:
        with torch.no_grad():
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs=metadata
            )
    except Exception as error:
        # Torch's compiler has kinds of its own for a missing one; all others go on.
        if "compiler" not in type(error).__name__.lower() and "compiler" not in str(error).lower():
            raise
        raise BackendError(
            f"AOTInductor cannot compile here ({first_line(error)}); install a C++ compiler (on "
            "Debian and Ubuntu: apt-get install g++), or export to another format."
        ) from error


def write_onnx(scorer: Scorer, path: Path) -> None:
    """An ONNX model; the contract is in its metadata."""
    with _quiet():
        program = torch.onnx.export(
            scorer.trace(),
            (),
            input_names=["images"],
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model
    _name_batch(model.graph)
    # torch 2.11 leaves nodes before those whose results they take.
    model.graph.sort()
    model.metadata_props[KEY] = scorer.contract_text()
    program.save(path)


def _name_batch(graph: Graph) -> None:
    """Call the free dimension ``batch``, in the shapes of all values: readers compare its names."""
    shape = graph.inputs[0].shape
    assert shape is not None
    old = re.compile(rf"\b{re.escape(str(shape[0]))}\b")
    inside = [value for node in graph.all_nodes() for value in node.outputs]
    for value in (*graph.inputs, *inside):
        sizes = value.shape
        for axis, size in enumerate(sizes or ()):
            if sizes is not None and not isinstance(size, int):
                sizes[axis] = old.sub("batch", str(size))


def write_openvino(scorer: Scorer, path: Path) -> None:
    """An OpenVINO model by way of ONNX; the contract is in its rt_info."""
    import openvino

    draft = path.with_suffix(".onnx")
    write_onnx(scorer, draft)
    model = openvino.convert_model(draft)
    model.set_rt_info(scorer.contract_text(), [KEY])
    # float16 weights are OpenVINO's default, and are more than a score can bear.
    openvino.save_model(model, path, compress_to_fp16=False)
    del model
    _keep_float32(path)
    for used in (draft, draft.with_name(draft.name + ".data")):
        used.unlink(missing_ok=True)


def _keep_float32(path: Path) -> None:
    """Mark every operation as one that is not to be computed in fewer bits.

    OpenVINO takes bfloat16 or float16 by itself where the device is faster with it. No key of a
    file forbids that for a model. The mark of an operation, which ``save_model`` itself writes for
    those that it finds sensitive, holds unless the runtime replaces the operation by another one.
    """
    tree = ElementTree.parse(path)
    for layer in tree.iter("layer"):
        if layer.get("type") in ("Const", "Parameter", "Result"):
            continue
        info = layer.find("rt_info")
        if info is None:
            info = ElementTree.Element("rt_info")
            layer.insert(0 if layer.find("data") is None else 1, info)
        if all(mark.get("name") not in _EXACT for mark in info):
            ElementTree.SubElement(info, "attribute", name=_EXACT[0], version="0")
    tree.write(path, encoding="utf-8", xml_declaration=True)


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript"), write_onnx),
    "openvino": Format(".xml", ("onnx", "onnxscript", "openvino"), write_openvino),
    "torch": Format(".pt2", (), write_torch),
    "aotinductor": Format(".pt2", (), write_aotinductor),
}
