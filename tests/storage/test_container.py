"""The file format, tested through checkpoints."""

import errno
import json
import os
import pickle
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fastalign import storage
from fastalign.errors import ArtifactError, ConfigError, FastalignError
from fastalign.storage import container, header


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "double": torch.randn(3, 2, generator=generator, dtype=torch.float64),
        "half": torch.randn(5, generator=generator).half(),
        "brain": torch.randn(2, 3, 4, generator=generator).bfloat16(),
        "transposed": torch.randn(4, 6, generator=generator).t(),
        "channels_last": torch.randn(2, 3, 4, 5, generator=generator).to(
            memory_format=torch.channels_last
        ),
        "expanded": torch.randn(1, 3, generator=generator).expand(4, 3),
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "flags": torch.tensor([True, False, True]),
        "random_state": generator.get_state(),
    }


META = {"epoch": 3, "settings": {"seed": 0, "size": [32, 48]}, "loss": 0.1, "none": None}


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "a.ckpt"
    storage.save_checkpoint(path, tensors(), META)
    return path


def test_everything_comes_back_bit_for_bit(checkpoint):
    loaded, meta = storage.load_checkpoint(checkpoint)
    assert meta == META
    expected = tensors()
    assert loaded.keys() == expected.keys()
    for name, value in expected.items():
        assert loaded[name].dtype == value.dtype and loaded[name].shape == value.shape
        assert torch.equal(loaded[name], value), name


def test_loaded_tensors_may_be_written_without_touching_the_file(checkpoint):
    before = checkpoint.read_bytes()
    loaded, _ = storage.load_checkpoint(checkpoint)
    for value in loaded.values():
        value.zero_()
    assert checkpoint.read_bytes() == before
    again, _ = storage.load_checkpoint(checkpoint)
    assert torch.equal(again["double"], tensors()["double"])


def overwrite(path):
    """As ``cp`` and ``rsync --inplace`` do: other bytes in the same file."""
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)


def cut_short(path):
    os.truncate(path, 16)


@pytest.mark.parametrize("happening", [overwrite, cut_short, os.remove])
def test_what_was_read_stays_whatever_happens_to_the_file(checkpoint, happening):
    loaded, _ = storage.load_checkpoint(checkpoint)
    happening(checkpoint)
    for name, value in tensors().items():
        assert torch.equal(loaded[name], value), name


def test_a_mapped_file_gives_the_same_and_stays_when_it_is_replaced(checkpoint, tmp_path):
    loaded, _ = container.read(checkpoint, header.CHECKPOINT, mapped=True)
    storage.save_checkpoint(checkpoint, {"other": torch.zeros(100)}, META)
    for name, value in tensors().items():
        assert torch.equal(loaded[name], value), name


def test_a_file_that_is_written_while_it_is_read_is_noticed(checkpoint, monkeypatch):
    """Its head is that of one model, its tensors are of another."""
    head = container.read_header(checkpoint)
    overwrite(checkpoint)
    monkeypatch.setattr(container, "read_header", lambda path: head)
    with pytest.raises(ArtifactError, match=r"a\.ckpt: .*written to while it was read"):
        storage.load_checkpoint(checkpoint)


def test_equal_content_is_an_equal_file(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    storage.save_checkpoint(first, tensors(), META)
    backwards = dict(reversed(list(tensors().items())))
    storage.save_checkpoint(second, backwards, dict(reversed(list(META.items()))))
    assert first.read_bytes() == second.read_bytes()


def test_any_safetensors_reader_opens_it(checkpoint):
    with safe_open(checkpoint, framework="pt") as file:
        assert set(file.keys()) == set(tensors())
        about = json.loads(file.metadata()["fastalign"])
    assert about["format"] == "fastalign" and about["version"] == header.VERSION
    assert storage.read_metadata(checkpoint)["meta"] == META


def test_an_existing_file_is_replaced_only_by_a_complete_one(checkpoint, monkeypatch):
    before = checkpoint.read_bytes()
    chunks = container.chunks
    calls = []

    def failing(value):
        calls.append(value)
        if len(calls) > len(tensors()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return chunks(value)

    monkeypatch.setattr(container, "chunks", failing)
    with pytest.raises(FastalignError, match="a.ckpt"):
        storage.save_checkpoint(checkpoint, tensors(), {"epoch": 4})
    assert checkpoint.read_bytes() == before
    assert [entry.name for entry in checkpoint.parent.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("meta", [{"loss": float("nan")}, {"thing": object()}])
def test_metadata_that_is_no_json_is_refused_before_anything_is_written(tmp_path, meta):
    with pytest.raises(ConfigError, match="JSON"):
        storage.save_checkpoint(tmp_path / "x", {}, meta)
    assert not list(tmp_path.iterdir())


def test_a_dtype_the_format_lacks_is_named(tmp_path):
    with pytest.raises(ConfigError, match="complex64"):
        storage.save_checkpoint(tmp_path / "x", {"c": torch.zeros(1, dtype=torch.complex64)}, {})


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -200, -1])
def test_truncated(checkpoint, keep):
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[:keep])
    with pytest.raises(ArtifactError, match=r"a\.ckpt: .*(truncated|empty|no safetensors file)"):
        storage.load_checkpoint(checkpoint)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "small"
    storage.save_checkpoint(path, {"a": torch.arange(3.0)}, {})
    data = path.read_bytes()
    for keep in range(len(data)):
        path.write_bytes(data[:keep])
        with pytest.raises(ArtifactError):
            storage.load_checkpoint(path)


def test_a_flipped_bit_in_a_tensor_is_noticed(checkpoint):
    data = bytearray(checkpoint.read_bytes())
    data[-3] ^= 1
    checkpoint.write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged.*checksum"):
        storage.load_checkpoint(checkpoint)


def edit_header(path, change):
    """Rewrite the header after ``change(document)``; the tensor bytes stay."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    document = json.loads(data[8 : 8 + length])
    change(document)
    head = json.dumps(document).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + data[8 + length :])


def edit_about(path, **values):
    def change(document):
        about = json.loads(document["__metadata__"]["fastalign"])
        about.update(values)
        document["__metadata__"]["fastalign"] = json.dumps(about)

    edit_header(path, change)


def test_a_newer_version_asks_for_an_update(checkpoint):
    edit_about(checkpoint, version=header.VERSION + 1)
    with pytest.raises(ArtifactError, match=f"version {header.VERSION + 1}.*update fastalign"):
        storage.load_checkpoint(checkpoint)


@pytest.mark.parametrize("version", [0, -1, "1", None, True, 1.5])
def test_a_version_that_is_no_version(checkpoint, version):
    edit_about(checkpoint, version=version)
    with pytest.raises(ArtifactError, match="no positive integer"):
        storage.load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(shape=[2, 2]),
        lambda entry: entry.update(shape="3x2"),
        lambda entry: entry.update(data_offsets=[0, 8]),
        lambda entry: entry.update(data_offsets=[-8, 40]),
        lambda entry: entry.update(data_offsets=None),
        lambda entry: entry.update(dtype="F31"),
        lambda entry: entry.pop("shape"),
    ],
)
def test_a_damaged_table_of_tensors(checkpoint, change):
    edit_header(checkpoint, lambda document: change(document["double"]))
    with pytest.raises(ArtifactError, match="a.ckpt"):
        storage.load_checkpoint(checkpoint)


def test_a_model_is_wanted_but_a_checkpoint_given(checkpoint):
    with pytest.raises(ArtifactError, match="is a fastalign checkpoint, a model was expected"):
        container.read(checkpoint, header.MODEL)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("must-not-exist",)


def test_a_pickle_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain, zipped = tmp_path / "plain.pt", tmp_path / "zip.pt"
    plain.write_bytes(pickle.dumps(Bomb()))
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    for path in (plain, zipped):
        with pytest.raises(ArtifactError, match="pickled"):
            storage.load_checkpoint(path)
    assert not (tmp_path / "must-not-exist").exists()


@pytest.mark.parametrize("length", [0x480, int.from_bytes(b"PK", "little")])
def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path, length):
    """A file begins with the length of its header, and that of a pickle is a number too."""
    path = tmp_path / "a.ckpt"
    storage.save_checkpoint(path, tensors(), {"note": ""})
    base = int.from_bytes(path.read_bytes()[:8], "little")
    for filler in range(length - base - 8, length - base + 1):
        storage.save_checkpoint(path, tensors(), {"note": "x" * filler})
        if int.from_bytes(path.read_bytes()[:8], "little") == length:
            break
    assert path.read_bytes()[:2] in (b"\x80\x04", b"PK")
    assert storage.load_checkpoint(path)[1] == {"note": "x" * filler}


def test_foreign_files(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("these are only some notes, and long enough to look like a header")
    image = tmp_path / "image.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, other, metadata={"format": "pt"})
    bare = tmp_path / "bare.safetensors"
    save_file({"a": torch.zeros(2)}, bare)
    for path in (text, image, other, bare):
        with pytest.raises(ArtifactError, match=f"{path.name}: not a fastalign model"):
            storage.load_checkpoint(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ArtifactError, match="no such file.*fastalign fit"):
        storage.load_checkpoint(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match="folder"):
        storage.load_checkpoint(tmp_path)


def test_differing_settings_are_named_with_both_values():
    saved = {"seed": 0, "config": {"size": [32, 32], "epochs": 5}, "old": 1}
    now = {"seed": 1, "config": {"size": (32, 32), "epochs": 6}, "new": 2}
    assert storage.differing_settings(saved, now) == [
        "config.epochs (interrupted run: 5, now: 6)",
        "new (interrupted run: not set, now: 2)",
        "old (interrupted run: 1, now: not set)",
        "seed (interrupted run: 0, now: 1)",
    ]
    assert storage.differing_settings(saved, json.loads(json.dumps(saved))) == []
