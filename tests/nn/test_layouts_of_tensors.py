"""Tensors that are no plain ones: the layer, op or model refuses them by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastalign import FYD, nn, ops
from fastalign.errors import InputError

KEPT = Path(__file__).parents[1] / "storage" / "kept" / "version1.safetensors"
SHAPE = (3, 3, 32, 48)


@pytest.fixture(scope="module")
def calls():
    model = FYD.load(KEPT)
    theta = torch.eye(2, 3).repeat(SHAPE[0], 1, 1)
    fitted = nn.DenseGaussian(3, SHAPE[2:]).update(torch.rand(SHAPE)).finalize()
    return {
        "FYD": model,
        "FYD.align": model.align,
        "FYD.fit": lambda x: FYD(image_size=SHAPE[2:], align="none").fit(x),
        "FYD.predict": model.predict,
        "FeatureBackbone": model.features.backbone,
        "SpatialAlign": nn.SpatialAlign(3),
        "Projector": nn.Projector(3),
        "Predictor": nn.Predictor(3),
        "DenseGaussian.update": nn.DenseGaussian(3, SHAPE[2:]).update,
        "DenseGaussian": fitted,
        "CountCalibration": lambda x: nn.CountCalibration(x, 0.1),
        "smooth": lambda x: nn.smooth(x, 1.0),
        "std_of_normalised": nn.std_of_normalised,
        "warp_affine": lambda x: ops.warp_affine(x, theta),
        "dense_similarity": lambda x: ops.dense_similarity(x, x),
        "dense_similarity_loss": lambda x: ops.dense_similarity_loss(x, x),
    }


KINDS = {
    "sparse": lambda x: x.to_sparse(),
    "sparse with dense rows": lambda x: x.to_sparse(2),
    "CSR": lambda x: x[0, 0].to_sparse_csr(),
    "mkldnn": lambda x: x.to_mkldnn(),
    "nested": lambda x: torch.nested.nested_tensor(list(x)),
    "jagged": lambda x: torch.nested.nested_tensor(list(x[:, 0]), layout=torch.jagged),
    "quantised": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),
    "complex": lambda x: x.to(torch.complex64),
}
WORDS = "layout torch|nested|quantised|complex64|is no array|array of shape"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_tensor_is_named(calls, kind):
    for name, call in calls.items():
        with pytest.raises((TypeError, InputError), match=WORDS) as error:
            call(KINDS[kind](torch.rand(SHAPE)))
        assert "Could not run" not in str(error.value), name


def test_a_layer_names_a_tensor_on_another_device(calls):
    for name in ("FYD", "FYD.fit", "FeatureBackbone", "SpatialAlign", "Projector", "Predictor"):
        with pytest.raises((ValueError, InputError), match="on (the device )?meta"):
            calls[name](torch.rand(SHAPE, device="meta"))
    with pytest.raises(ValueError, match="on meta, where they have no values"):
        nn.CountCalibration(torch.rand(4, 2, 2, device="meta"), 0.1)


@pytest.mark.parametrize("name", ["FYD", "FYD.align", "FeatureBackbone", "DenseGaussian.update"])
def test_vmap_over_what_takes_batches_is_refused(calls, name):
    with pytest.raises(TypeError, match=r"come from torch\.vmap.*takes batches by itself"):
        torch.func.vmap(lambda x: calls[name](x[None]))(torch.rand(SHAPE))


def test_vmap_over_layers_and_a_gradient_through_the_model_still_work(calls):
    images = torch.rand(2, *SHAPE[1:])
    mapped = torch.func.vmap(lambda x: calls["DenseGaussian"](x[None])[0])(images)
    torch.testing.assert_close(mapped, calls["DenseGaussian"](images))
    gradient = torch.func.grad(lambda x: calls["FYD"](x)[0].sum())(images)
    assert gradient.isfinite().all()
