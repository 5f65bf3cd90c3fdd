"""The model on a GPU: every choice fits, scores as on the CPU, is saved and comes back."""

from __future__ import annotations

import pytest
import torch
from gpu_support import QUICK, photographs
from torch import Tensor

from fastalign import FYD

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def assert_close(on_gpu: Tensor, on_cpu: Tensor) -> None:
    """Of numbers; an edge of what was compared may lie a pixel further on either."""
    on_gpu, known = on_gpu.cpu(), on_gpu.cpu().isfinite() & on_cpu.isfinite()
    assert known.float().mean() > 0.5
    assert (on_gpu.isfinite() == on_cpu.isfinite()).float().mean() > 0.99
    assert (on_gpu - on_cpu)[known].abs().max() <= 0.01 * on_cpu[known].abs().max()


@pytest.mark.parametrize(
    "options",
    [
        {"align": "none"},
        {"align": "ica", "skip": False},
        {"align": "ica", "teacher": False, "skip": False},
        {"align": "all", "skip": False},
        {"align": "none", "channels": 0, "storage": "bfloat16"},
    ],
    ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items()),
)
def test_every_choice_fits_scores_and_comes_back(options, tmp_path):
    images, validation = photographs(12), photographs(4, seed=1)
    model = FYD(**{**QUICK, **options}).to("cuda").fit(images, validation)
    assert {value.device.type for value in model.state_dict().values()} == {"cuda"}
    score, maps = model.set_precision("float32")(validation.cuda())
    assert maps.device.type == "cuda" and not maps.isinf().any() and score.isfinite().all()
    assert (score.cpu() <= 2 * model.image_threshold.cpu()).all()
    model.save(tmp_path / "m.safetensors")
    again = FYD.load(tmp_path / "m.safetensors", "cuda", precision="float32")
    # What follows from the stored tensors was made on the CPU this time.
    assert_close(again(validation.cuda())[1], maps.cpu())
    on_cpu = FYD.load(tmp_path / "m.safetensors")
    assert_close(maps, on_cpu(validation)[1])


def test_a_model_of_the_cpu_scores_the_same_on_the_gpu():
    images = photographs(12)
    model = FYD(**QUICK, skip=False).fit(images)
    expected = model(images[:5])
    detail = model.predict_detail(images[:5])
    model.to("cuda").set_precision("float32")
    assert_close(model(images[:5].cuda())[1], expected[1])
    on_gpu = model.predict_detail(images[:5].cuda())
    assert (on_gpu.theta.cpu() - detail.theta).abs().max() < 0.02


def test_the_same_seed_gives_the_same_bits():
    images = photographs(12)
    torch.use_deterministic_algorithms(True)
    try:
        one, other = (FYD(**QUICK).to("cuda").fit(images, seed=3) for _ in range(2))
        found, expected = one(images.cuda())[1], other(images.cuda())[1]
        assert torch.equal(found.nan_to_num(-1), expected.nan_to_num(-1))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("precision", "least", "most"),
    [
        ("float32", 0, 1e-4),
        ("tf32", 1e-6, 0.005),
        ("bfloat16", 1e-4, 0.2),
        ("float16", 1e-5, 0.02),
    ],
)
def test_scores_are_as_close_to_a_cpus_as_the_precision_says(precision, least, most):
    # With the usual shrinkage, distances to twelve images of one part in plain light are those of
    # what rounding leaves in directions without any variance, on a processor as on a GPU.
    model = FYD(**QUICK, skip=False, shrinkage=1.0).fit(photographs(12))
    images = photographs(5, seed=1)
    switches = torch.backends.cudnn.allow_tf32
    with torch.inference_mode():
        wanted = model(images)[0]
        model.to("cuda").set_precision(precision)
        assert model.precision == precision
        # Launch by launch, recorded, and replayed.
        found = [model(images.cuda())[0].cpu() for _ in range(3)]
    assert torch.equal(found[0], found[2])
    assert least <= ((found[0] - wanted) / wanted).abs().max() <= most
    assert torch.backends.cudnn.allow_tf32 == switches
