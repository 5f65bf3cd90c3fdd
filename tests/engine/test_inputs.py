import numpy as np
import pytest

from fastalign.engine.fit import fit_category
from fastalign.engine.inputs import find_inputs
from fastalign.errors import InputError


def test_names_that_differ_by_case_do_not_meet_on_a_file_system_without_case(tmp_path, save_image):
    for name in ("A.png", "a.png", "a.PNG"):
        save_image(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    stems = [str(item.stem).casefold() for item in find_inputs(tmp_path)[0]]
    assert len(set(stems)) == len(list(tmp_path.iterdir()))


def test_a_model_does_not_replace_a_photograph(tmp_path, save_image):
    photograph = tmp_path / "good" / "1.png"
    save_image(photograph, np.zeros((4, 4, 3), np.uint8))
    before = photograph.read_bytes()
    with pytest.raises(InputError, match=r"1\.png: this is an image"):
        fit_category(tmp_path, photograph)
    assert photograph.read_bytes() == before
