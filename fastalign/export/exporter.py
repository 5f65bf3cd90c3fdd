"""Writing a model as a file for another runtime."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fastalign.errors import ConfigError
from fastalign.export import writers
from fastalign.export.scorer import Scorer
from fastalign.io import atomic_write, check_writable
from fastalign.nn.state import made_in_own_state

if TYPE_CHECKING:
    from fastalign.models.fyd import FYD

FORMATS = tuple(writers.FORMATS)


@made_in_own_state
def export_model(
    model: FYD, path: str | os.PathLike[str], to: str, *, input_dtype: str = "float32"
) -> list[Path]:
    """Write a fitted model as a file that runs without fastalign, in float32.

    Args:
        model: a fitted model. AOTInductor compiles for the device that it is on.
        path: the file to write; its ending is that of the format.
        to: ``"onnx"`` (.onnx), ``"openvino"`` (.xml, and .bin beside it), ``"torch"`` (.pt2, an
            ``ExportedProgram``) or ``"aotinductor"`` (.pt2, compiled for this kind of machine).
        input_dtype: of the images: ``"float32"`` in 0..1 or ``"uint8"`` in 0..255.

    Returns:
        The files that were written, ``path`` first. An ONNX model above 2 GB has its weights in a
        second file, ``path`` with ``.data`` at its end.

    Raises:
        ConfigError: no such format, input or ending; or the model is not fitted.
        BackendError: a package or compiler that the format needs is missing.
        InputError: ``path`` cannot be written.
    """
    if to not in writers.FORMATS:
        raise ConfigError(f"format {to!r}: use one of {', '.join(FORMATS)}.")
    kind = writers.FORMATS[to]
    path = Path(path)
    if path.suffix != kind.suffix:
        raise ConfigError(f"{path}: files of format {to} end with {kind.suffix}; rename it.")
    scorer = Scorer(model, input_dtype).eval()
    kind.require()
    check_writable(path)
    with tempfile.TemporaryDirectory() as folder, model.features.in_float32():
        draft = Path(folder) / path.name
        kind.write(scorer, draft)
        # The file that names the others comes last.
        others = sorted(p.name for p in Path(folder).iterdir() if p.name != path.name)
        for name in (*others, path.name):
            _publish(Path(folder) / name, path.with_name(name))
    return [path, *(path.with_name(name) for name in others)]


def _publish(draft: Path, path: Path) -> None:
    with draft.open("rb") as source, atomic_write(path) as file:
        shutil.copyfileobj(source, file, 1 << 24)
