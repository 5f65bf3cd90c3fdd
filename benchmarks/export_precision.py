"""What an exported file scores in each runtime and precision, and how many verdicts change.

    python benchmarks/export_precision.py [--data CATEGORY] [--image-size 256] [--out FOLDER]

A model is fitted with the defaults on a category, the shipped one unless told otherwise, and its
test images are scored by the library and by each runtime that is installed. Writes
``export_precision.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import fastalign
from fastalign import FYD
from fastalign.data import ImageDataset, collect, open_category, split_validation
from fastalign.export import export_model
from fastalign.verdict import judge

SHIPPED = Path(fastalign.__file__).parent / "demo_data" / "screw_plate"
Run = Callable[[np.ndarray], float]


def runtimes(onnx: Path, openvino_file: Path) -> Iterator[tuple[str, str, Run]]:
    """Name, precision, and a function from images ``[1,3,H,W]`` to the score."""
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    yield (
        f"onnxruntime {version('onnxruntime')}",
        "float32",
        lambda images: float(session.run(["score"], {"images": images})[0][0]),
    )
    import openvino

    name = f"OpenVINO {version('openvino')}"
    f32 = {"INFERENCE_PRECISION_HINT": "f32"}
    for label, file, hints in (
        (f"{name}, .xml, hint f32", openvino_file, f32),
        (f"{name}, .xml, no hint", openvino_file, {}),
        (f"{name}, .onnx, no hint", onnx, {}),
    ):
        model = openvino.compile_model(file, "CPU", hints)
        kind = model.get_property("INFERENCE_PRECISION_HINT").to_string()
        yield label, kind, lambda images, model=model: float(model(images)["score"][0])
    try:
        import cv2
    except ImportError:
        return
    if hasattr(cv2.dnn, "ENGINE_NEW"):
        net = cv2.dnn.readNetFromONNX(str(onnx), cv2.dnn.ENGINE_NEW)

        def forward(images: np.ndarray) -> float:
            net.setInput(images, "images")
            # This engine gives all outputs or none.
            return float(net.forward(["score", "map", "label"])[0].ravel()[0])

        yield f"OpenCV {cv2.__version__}, dnn", "float32", forward


def measure(category: Path, size: int) -> dict[str, object]:
    """A row for each runtime, beside what they were measured on."""
    found = open_category(category)
    train, validation = split_validation(found.train, 0.2, 0)
    model = FYD(image_size=(size, size))
    model.fit(
        ImageDataset(train, (size, size), cache=True),
        ImageDataset(validation, (size, size), cache=True),
    )
    threshold = float(model.image_threshold)
    images = collect(ImageDataset(found.test, (size, size)))
    with torch.inference_mode():
        wanted = np.array([float(model(image[None])[0]) for image in images])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        onnx, openvino_file = Path(folder) / "model.onnx", Path(folder) / "model.xml"
        export_model(model, onnx, "onnx")
        export_model(model, openvino_file, "openvino")
        for name, precision, run in runtimes(onnx, openvino_file):
            scores = np.array([run(image[None].numpy()) for image in images])
            changed = sum(
                judge(new, threshold) != judge(old, threshold)
                for new, old in zip(scores, wanted, strict=True)
            )
            off = np.abs(scores / wanted - 1)
            print(f"{name}: {100 * off.max():.2g} %, {changed} verdicts changed", flush=True)
            rows.append(
                {
                    "runtime": name,
                    "precision": precision,
                    "largest": float(off.max()),
                    "median": float(np.median(off)),
                    "changed": changed,
                }
            )
    return {
        "category": category.name,
        "image_size": size,
        "images": len(images),
        "threshold": threshold,
        "load": os.getloadavg()[0],
        "rows": rows,
    }


def page(result: dict[str, object]) -> str:
    """The table."""
    lines = [
        f"`{result['category']}`, {result['images']} test images at {result['image_size']} px; "
        "against the library's scores.",
        "",
        "| runtime | computes in | largest difference of a score | median | verdicts changed |",
        "|---|---|---|---|---|",
    ]
    rows = result["rows"]
    assert isinstance(rows, list)
    lines += [
        f"| {row['runtime']} | {row['precision']} | {100 * row['largest']:.2g} % | "
        f"{100 * row['median']:.2g} % | {row['changed']} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHIPPED, help="a category")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    result = measure(options.data, options.image_size)
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1) + "\n"
    (options.out / "export_precision.json").write_text(text, encoding="utf-8")
    (options.out / "export_precision.md").write_text(page(result), encoding="utf-8")
    print(page(result))


if __name__ == "__main__":
    main()
