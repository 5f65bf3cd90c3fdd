"""A model in files and on the hub: written, read, and made of its state."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastalign import storage
from fastalign.models.config import FYDConfig
from fastalign.models.record import FitRecord
from fastalign.models.rooms import restore
from fastalign.models.scoring_model import ScoringModel
from fastalign.models.stored_density import packed
from fastalign.nn.state import made_in_own_state
from fastalign.storage import StoredModel, hub, layout

if TYPE_CHECKING:
    from typing_extensions import Self


# What files of versions have that do not know these options, and can read where they are left out.
_EARLIER: dict[str, Any] = {
    "strides": (4, 8, 16),
    "reduction": "draw",
    "prior": 0.0,
    "mean_prior": "own",
    "rank": 0,
    "neighbours": 0,
    "top_share": 0.0,
}


class PersistentModel(ScoringModel):
    """A model of rooms that can be kept; arguments, attributes and errors are those of
    :class:`fastalign.models.room_model.RoomModel`."""

    def stored(self) -> StoredModel:
        """The model as storage keeps it: configuration, the tensors of its rooms, metadata."""
        rooms = layout.rooms_of(self.state_dict())
        config = asdict(self.config)
        for name, value in _EARLIER.items():
            if config[name] == value:
                del config[name]
        rooms[layout.DENSITY] = packed(rooms[layout.DENSITY])
        return StoredModel(config, rooms, self.extra_metadata())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model to one safetensors file, atomically; equal models give equal
        files.

        Raises:
            ConfigError: its metadata cannot be written as JSON.
            InputError: ``path`` cannot be written (the message names it and the cause).
        """
        storage.write_model(path, self.stored())

    @classmethod
    @made_in_own_state
    def load(
        cls,
        path: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        *,
        mapped: bool = False,
        precision: str | None = None,
        runtime: str = "auto",
    ) -> Self:
        """Read a model written by :meth:`save`; it is in evaluation mode on ``device``.

        Args:
            path: the file. Once it is read, the model has no more to do with it.
            device: where to put the model.
            mapped: leave the Gaussians in the file: their pages come into memory as they are used,
                and several processes on one machine share them. The file must then be replaced by
                renaming another to its name, as :meth:`save` does; what is written into it changes
                the scores, and cutting it short ends the process.
            precision: what the network computes in, see :meth:`set_precision`.
            runtime: what computes it, see :meth:`set_runtime`.

        Raises:
            ConfigError: the device does not compute in ``precision`` or by ``runtime``.
            BackendError: ``runtime`` is not installed, or does not give what torch does.
            ArtifactError: the file is missing, truncated, damaged, foreign, from a newer version,
                or its tensors do not fit its configuration; the message says which, and what to do.
        """
        stored = storage.read_model(
            path, [field.name for field in fields(FYDConfig)], mapped=mapped
        )
        with storage.making_of(path):
            config = FYDConfig(**{**_EARLIER, **stored.config})
            model = cls._restored(config, stored.rooms, stored.metadata)
        return model.to(device).eval().set_precision(precision).set_runtime(runtime)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write a folder in the manner of the Hugging Face hub: ``model.safetensors``,
        ``config.json`` and, unless there is one, ``README.md``; returns the folder, which is made
        when missing.

        Raises:
            InputError: it cannot be written.
        """
        return hub.save_folder(folder, self.stored())

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        *,
        precision: str | None = None,
        runtime: str = "auto",
        **options: Any,
    ) -> Self:
        """A model from such a folder, a file or the hub.

        Args:
            source: a folder that :meth:`save_pretrained` wrote, a model file, or the id of a
                repository on the hub (``"owner/name"``); what exists on the disk comes first.
            device: where to put it.
            precision, runtime: as in :meth:`load`.
            options: for the hub: ``revision``, ``token``, ``cache_dir``, ``force_download``,
                ``local_files_only``, as in ``huggingface_hub.hf_hub_download``.

        Raises:
            ArtifactError: the folder holds no model, or the file is damaged.
            BackendError: a repository without huggingface_hub being installed.
            InputError: there is neither such a path nor such a repository, or it cannot be reached.
        """
        file = hub.find_file(source, options)
        return cls.load(file, device, precision=precision, runtime=runtime)

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Upload what :meth:`save_pretrained` writes; returns the address of the commit.

        Args:
            repository: ``"owner/name"``; made when missing.
            options: ``private``, ``token``, ``commit_message``, ``revision``.

        Raises:
            BackendError: huggingface_hub is not installed.
            InputError: the hub refuses, or cannot be reached.
        """
        return hub.push(self.stored(), repository, **options)

    @classmethod
    @made_in_own_state
    def from_state(
        cls, config: FYDConfig, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
    ) -> Self:
        """A fitted model of its configuration, ``state_dict()`` and :meth:`extra_metadata`.

        Raises:
            RuntimeError, KeyError, ValueError: they do not fit each other.
        """
        return cls._restored(config, layout.rooms_of(tensors), metadata)

    @classmethod
    def _restored(
        cls,
        config: FYDConfig,
        rooms: layout.Rooms,
        metadata: Mapping[str, Any],
    ) -> Self:
        record, made = FitRecord.from_metadata(metadata), restore(config, rooms, metadata)
        if (record.regions_of_interest is None) != (made.maps.regions is None):
            raise ValueError("regions of interest: their labels and their names belong together")
        return cls.of_rooms(made, record)
