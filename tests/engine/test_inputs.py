import numpy as np

from fastalign.engine.inputs import find_inputs


def test_names_that_differ_by_case_do_not_meet_on_a_file_system_without_case(tmp_path, save_image):
    for name in ("A.png", "a.png", "a.PNG"):
        save_image(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    stems = [str(item.stem).casefold() for item in find_inputs(tmp_path)[0]]
    assert len(set(stems)) == len(list(tmp_path.iterdir()))
