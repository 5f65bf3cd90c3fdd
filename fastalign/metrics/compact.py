"""Many scores in little memory, without loss.

Finite float32 numbers keep their order as unsigned 32-bit keys. The sorted keys of one image lie
close together, so their differences mostly fit into one byte; the few that do not are kept apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint32]

_SIGN = np.uint32(0x80000000)
_ESCAPE_BYTES = 8
_LARGEST = {width: np.uint32(2 ** (8 * width) - 1) for width in (1, 2, 4)}


def to_keys(scores: npt.NDArray[np.float32]) -> Keys:
    """Finite float32 scores as integers of the same order; -0.0 and 0.0 become one."""
    bits = (scores + np.float32(0)).view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


@dataclass(frozen=True)
class PackedKeys:
    """Sorted keys as differences, with those that do not fit into ``steps`` beside them."""

    first: np.uint32
    steps: npt.NDArray[np.unsignedinteger]
    places: npt.NDArray[np.int32]
    large: Keys

    @classmethod
    def pack(cls, keys: Keys) -> PackedKeys:
        """Pack ``keys``, which are sorted and at least one."""
        steps = np.diff(keys)
        sizes = {}
        for width in (1, 2, 4):
            escapes = int(np.count_nonzero(steps > _LARGEST[width]))
            sizes[width] = width * steps.size + _ESCAPE_BYTES * escapes
        width = min(sizes, key=lambda candidate: sizes[candidate])
        dtype: np.dtype[np.unsignedinteger] = np.dtype(f"u{width}")
        places = np.flatnonzero(steps > _LARGEST[width]).astype(np.int32)
        return cls(keys[0], steps.astype(dtype), places, steps[places])

    def unpack(self) -> Keys:
        """The sorted keys."""
        keys = np.empty(self.steps.size + 1, np.uint32)
        keys[0] = self.first
        keys[1:] = self.steps
        keys[self.places + 1] = self.large
        return np.cumsum(keys, dtype=np.uint32, out=keys)

    @property
    def nbytes(self) -> int:
        """Memory taken, in bytes."""
        return self.steps.nbytes + self.places.nbytes + self.large.nbytes
