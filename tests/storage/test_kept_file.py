"""A file of format version 1, with all optional parts, as it was written and as it scored then."""

import json
from pathlib import Path

import pytest
import torch

from fastalign import FYD
from fastalign.storage import layout, read_metadata
from fastalign.storage.container import read

FILE = Path(__file__).parent / "kept" / "version1.safetensors"
THEN = json.loads(FILE.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def model():
    return FYD.load(FILE)


def test_it_scores_as_it_did(model):
    numbers = torch.arange(2 * 3 * 32 * 48) * 2654435761 % 4294967296
    detail = model.predict_detail((numbers / 4294967296).view(2, 3, 32, 48))
    # To the rounding of convolutions, which differs between machines.
    torch.testing.assert_close(detail.score, torch.tensor(THEN["score"]), rtol=1e-3, atol=0)
    total = detail.map.nansum((1, 2))
    torch.testing.assert_close(total, torch.tensor(THEN["map_sum"]), rtol=1e-3, atol=0)
    torch.testing.assert_close(detail.theta, torch.tensor(THEN["theta"]), rtol=0, atol=1e-3)
    assert float(model.image_threshold) == THEN["image_threshold"]
    assert model.extra_metadata() == THEN["metadata"]
    assert all(model.parts()[part] for part in ("aligner", "fca", "fa"))


def test_written_again_it_is_the_same_file(model, tmp_path):
    model.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == FILE.read_bytes()


def test_every_tensor_has_a_room_and_its_old_name():
    tensors, _ = read(FILE, "model")
    rooms = layout.rooms_of(tensors)
    assert rooms.keys() == set(layout.ROOMS) and all(rooms.values())
    back = layout.in_file(rooms)
    assert back.keys() == tensors.keys()
    assert all(back[name] is tensor for name, tensor in tensors.items())


def test_a_tensor_without_a_place_is_named():
    with pytest.raises(KeyError, match="unexpected tensors: attic"):
        layout.rooms_of({"attic.box": torch.zeros(1), "selection": torch.zeros(1)})
    with pytest.raises(KeyError, match="box of room attic"):
        layout.in_file({"attic": {"box": torch.zeros(1)}})


def test_its_head_can_be_read_alone():
    assert read_metadata(FILE)["config"]["layers"] == [1]
