from __future__ import annotations

import os

import pytest

from fastalign.data import fingerprint


@pytest.fixture
def files(tmp_path):
    """A small file, and one of 3 MiB."""
    contents = (b"small", bytes(3 << 20))
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.bmp").write_bytes(content)
    return [tmp_path / "0.bmp", tmp_path / "1.bmp"]


def change(path, offset, content=b"x"):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(content)


def test_dates_and_the_folder_do_not_count(files, tmp_path):
    before = fingerprint(files)
    assert before.startswith("2 files, ") and len(before) == len("2 files, ") + 16
    os.utime(files[0], (1, 1))
    (tmp_path / "moved").mkdir()
    moved = [path.rename(tmp_path / "moved" / path.name) for path in files]
    assert fingerprint(moved) == before


ROW = 3 * 4000  # bytes of a row of the picture that the large file stands for


@pytest.mark.parametrize(
    "edit",
    [
        lambda small, large: change(small, 4),
        lambda small, large: change(large, 0),
        lambda small, large: change(large, (3 << 20) - 1),
        lambda small, large: change(large, 1_234_567, b"x" * (3 << 20 >> 6)),
        lambda small, large: change(large, 3 << 20),
        lambda small, large: large.write_bytes(bytes((3 << 20) - 1)),
        lambda small, large: small.unlink(),
    ],
    ids=["small", "first byte", "last byte", "a 64th within", "longer", "shorter", "missing"],
)
def test_a_change_of_content_shows(files, edit):
    before = fingerprint(files)
    edit(*files)
    assert fingerprint(files) != before


def test_names_and_order_count(files):
    before = fingerprint(files)
    assert fingerprint(files[::-1]) != before
    renamed = files[0].rename(files[0].with_name("z.bmp"))
    assert fingerprint([renamed, files[1]]) != before


def test_one_changed_column_of_a_large_picture_shows(files):
    """A part of each of some rows, taller than a 64th of the picture."""
    before = fingerprint(files)
    rows = (3 << 20) // ROW
    for row in range(100, 100 + rows // 64 + 2):
        change(files[1], row * ROW + 6000, b"xyz")
    assert fingerprint(files) != before
