"""Folders and repositories in the manner of the Hugging Face hub, without a network."""

from __future__ import annotations

import builtins
import json

import pytest
import torch

from fastalign import FYD
from fastalign.errors import ArtifactError, BackendError, InputError


@pytest.fixture(scope="module")
def model():
    images = list(torch.rand(4, 3, 32, 48))
    return FYD(image_size=(32, 48), align="none", layers=(1,), channels=4).fit(images)


def _same(first: FYD, second: FYD) -> bool:
    images = torch.rand(2, 3, 32, 48)
    return all(torch.equal(a, b) for a, b in zip(first(images), second(images), strict=True))


def test_a_folder_and_back(model, tmp_path):
    folder = model.save_pretrained(tmp_path / "new" / "part")
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    assert _same(FYD.from_pretrained(folder), model)
    assert _same(FYD.from_pretrained(str(folder / "model.safetensors")), model)
    config = json.loads((folder / "config.json").read_text())
    assert config["library_name"] == "fastalign" and config["image_size"] == [32, 48]


def test_the_card_tells_what_the_model_is(model, tmp_path):
    text = (model.save_pretrained(tmp_path) / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: fastalign\n")
    for words in ("32 x 48", "| training images | 4, all", "| image threshold |", "(32, 48)"):
        assert words in text
    assert "unknown" not in text


def test_a_card_that_is_there_stays(model, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_the_hub_gives_the_weights_file(model, tmp_path, monkeypatch):
    folder = model.save_pretrained(tmp_path)
    seen = []

    def download(repository, name, **options):
        seen.append((repository, name, options))
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert _same(FYD.from_pretrained("owner/part", revision="v1"), model)
    assert seen == [("owner/part", "model.safetensors", {"revision": "v1"})]


def test_upload(model, monkeypatch):
    seen = {}

    class Api:
        def __init__(self, token):
            seen["token"] = token

        def create_repo(self, repository, private, exist_ok):
            seen["made"] = (repository, private, exist_ok)

        def upload_folder(self, repo_id, folder_path, commit_message):
            seen["model"] = FYD.from_pretrained(folder_path)
            return f"https://hub/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert model.push_to_hub("owner/part", private=True, token="t") == "https://hub/owner/part"
    assert seen["token"] == "t" and seen["made"] == ("owner/part", True, True)
    assert _same(seen["model"], model)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ArtifactError, match=r"the folder has no model\.safetensors"):
        FYD.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["no/such/folder", "owner/part"])
def test_neither_a_path_nor_a_repository(name):
    """Offline, as all tests are."""
    with pytest.raises(InputError, match=f"{name}: no such file or folder, and no model"):
        FYD.from_pretrained(name)


@pytest.mark.parametrize(
    "call",
    [lambda model: FYD.from_pretrained("owner/part"), lambda model: model.push_to_hub("a/b")],
)
def test_without_huggingface_hub(model, monkeypatch, call):
    real = builtins.__import__

    def missing(name, *rest):
        if name == "huggingface_hub":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(BackendError, match="pip install huggingface_hub"):
        call(model)


def test_a_pickle_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match="pickled"):
        FYD.from_pretrained(tmp_path)
