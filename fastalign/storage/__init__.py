"""Models and checkpoints on disk and on the hub, as rooms with configuration, tensors and metadata.

Below the models: nothing here knows how a room is made of what it holds.
"""

from __future__ import annotations

from fastalign.storage.checkpoint import differing_settings, load_checkpoint, save_checkpoint
from fastalign.storage.model_file import (
    StoredModel,
    making_of,
    read_metadata,
    read_model,
    write_model,
)

__all__ = [
    "StoredModel",
    "differing_settings",
    "load_checkpoint",
    "making_of",
    "read_metadata",
    "read_model",
    "save_checkpoint",
    "write_model",
]
