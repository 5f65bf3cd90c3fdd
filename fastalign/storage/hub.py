"""Models as folders, in the manner of the Hugging Face hub: weights, configuration, model card.

Nothing is ever unpickled: the weights are the one safetensors file of a model, which alone is read.
``huggingface_hub`` is needed for what comes from or goes to the hub.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from fastalign.errors import ArtifactError, BackendError, InputError
from fastalign.io import atomic_write
from fastalign.storage.layout import DENSITY, MAPS
from fastalign.storage.model_file import StoredModel, write_model

# The names that the hub and its tools look for.
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"


def save_folder(folder: str | os.PathLike[str], model: StoredModel) -> Path:
    """Write ``model.safetensors``, ``config.json`` and, unless there is one, ``README.md``.

    Returns:
        The folder, which is made when missing.

    Raises:
        InputError: it cannot be written.
    """
    folder = Path(folder)
    write_model(folder / WEIGHTS, model)
    # For readers; loading takes the configuration from the weights file.
    config = {"library_name": "fastalign", **model.config}
    _write(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
    if not (folder / CARD).exists():
        _write(folder / CARD, model_card(model))
    return folder


def find_file(source: str | os.PathLike[str], options: dict[str, Any]) -> Path:
    """The model file of a folder, a file or a repository on the hub.

    Args:
        source: a folder that :func:`save_folder` wrote, a model file, or the id of a repository on
            the hub (``"owner/name"``); what exists on the disk comes first.
        options: for the hub: ``revision``, ``token``, ``cache_dir``, ``force_download``,
            ``local_files_only``, as in ``huggingface_hub.hf_hub_download``.

    Raises:
        ArtifactError: the folder holds no model.
        BackendError: a repository without huggingface_hub being installed.
        InputError: there is neither such a path nor such a repository, or it cannot be reached.
    """
    path = Path(source)
    if path.is_dir():
        path = path / WEIGHTS
        if not path.exists():
            raise ArtifactError(
                f"{source}: the folder has no {WEIGHTS}; give one that save_pretrained wrote."
            )
    elif not path.exists():
        path = _download(os.fspath(source), options)
    return path


def push(model: StoredModel, repository: str, **options: Any) -> str:
    """Upload what :func:`save_folder` writes; returns the address of the commit.

    Args:
        model: the model.
        repository: ``"owner/name"``; made when missing.
        options: ``private``, ``token``, ``commit_message``, ``revision``.

    Raises:
        BackendError: huggingface_hub is not installed.
        InputError: the hub refuses, or cannot be reached.
    """
    import tempfile

    hub = _hub()
    private = options.pop("private", None)
    options.setdefault("commit_message", "Upload model")
    api = hub.HfApi(token=options.pop("token", None))
    with tempfile.TemporaryDirectory() as folder:
        save_folder(folder, model)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repository, folder_path=folder, **options)
        except Exception as error:
            # The hub's client raises kinds of several libraries; none is ours to tell apart.
            raise InputError(
                f"{repository}: cannot be uploaded ({_first_line(error)}); check the name, the "
                "token and the network."
            ) from error
    return str(commit)


def model_card(model: StoredModel) -> str:
    """The text of ``README.md``: what the model is, how it was made, how to use it."""
    about, config = model.metadata, model.config
    height, width = config["image_size"]
    images = about.get("images") or {}
    alignment = about.get("alignment") or {}
    threshold = float(model.rooms[MAPS]["image_threshold"])
    density = model.rooms[DENSITY]
    channels = len(density["directions"] if "directions" in density else density["selection"])
    later = f", and {images['update']} by updates" if images.get("update") else ""
    facts = {
        "image size": f"{height} x {width} (height x width)",
        "training images": f"{images.get('train', 'unknown')}, all of good parts{later}",
        "images for the thresholds": images.get("validation", "unknown"),
        "alignment": alignment.get("summary", "none"),
        "backbone": f"{config['backbone']}, {channels} channels",
        "image threshold": "none" if math.isnan(threshold) else f"{threshold:.6g}",
        "threshold from": about.get("threshold_source", "unknown"),
        "seed": about.get("seed", "unknown"),
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return _CARD.format(rows=rows, height=height, width=width)


_CARD = """---
library_name: fastalign
tags:
- anomaly-detection
- industrial-inspection
- fastalign
---

# Anomaly detection on photographs of one kind of part

Fitted on photographs of good parts with `fastalign` (FYD,
[arXiv 2110.04538](https://arxiv.org/abs/2110.04538)). It scores how far a photograph is from them
and shows where, in the photograph's own frame.

| | |
|---|---|
{rows}

## Use

```python
from fastalign import FYD
from fastalign.data import load_image, prepare
from fastalign.verdict import judge

model = FYD.from_pretrained("this folder or repository")
image = prepare(load_image("photo.png", depth=model.depth), ({height}, {width}))
score, score_map = model(image[None])
verdict = judge(score, model.image_threshold)  # GOOD, ANOMALY or UNSURE
```

## Limits

It knows one kind of part under one camera and light. Scores have no unit and compare within this
model alone. Measure it on photographs of your own before you rely on it.
"""


def _download(repository: str, options: dict[str, Any]) -> Path:
    hub = _hub(f"{repository}: there is no such file or folder, and to look on the hub ")
    try:
        return Path(hub.hf_hub_download(repository, WEIGHTS, **options))
    except TypeError:
        raise
    except Exception as error:
        # As in publishing: kinds of several libraries.
        raise InputError(
            f"{repository}: no such file or folder, and no model of this name can be had from the "
            f"hub ({_first_line(error)}); check the name, the token and the network."
        ) from error


def _hub(why: str = "") -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise BackendError(
            f"{why}huggingface_hub is needed, which is not installed; install it with: pip install "
            "huggingface_hub"
        ) from error
    return huggingface_hub


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))
