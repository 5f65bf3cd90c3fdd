"""Memory for kernels that ends at an unmapped page: an access past it fails at once.

The harness turns the crash into an error that names kernel, block and thread. What lies between the
last byte and the page, since blocks are aligned, holds a pattern that must stay.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref

import torch
from torch import Tensor

_CANARY = 0xA5
_GUARD = 64 * 1024
_PROT_NONE, _PROT_BOTH = 0, mmap.PROT_READ | mmap.PROT_WRITE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.mmap.restype = ctypes.c_void_p
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Block:
    """``size`` bytes, every bit set, between unmapped pages.

    Args:
        size: bytes.
        align: the address is a multiple of this. Small on purpose: nothing else may be relied on.
    """

    def __init__(self, size: int, align: int) -> None:
        open_bytes = -(-(size + align) // mmap.PAGESIZE) * mmap.PAGESIZE
        total = open_bytes + 2 * _GUARD
        start = _libc.mmap(None, total, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        if start in (None, ctypes.c_void_p(-1).value):
            raise MemoryError
        weakref.finalize(self, _libc.munmap, start, total)
        opened = start + _GUARD
        end = opened + open_bytes
        _libc.mprotect(opened, open_bytes, _PROT_BOTH)
        self.size = size
        self.address = (end - size) // align * align
        self._below = (max(opened, self.address - 256), self.address)
        self._beyond = (self.address + size, end)
        for low, high in (self._below, self._beyond):
            ctypes.memset(low, _CANARY, high - low)
        ctypes.memset(self.address, 0xFF, size)
        self._content: bytes | None = None

    def freeze(self) -> None:
        """From now on the block itself must not be written either."""
        self._content = ctypes.string_at(self.address, self.size)

    def is_intact(self) -> bool:
        """Whether nothing was written beside the block, nor into one that is frozen."""
        if self._content not in (None, ctypes.string_at(self.address, self.size)):
            return False
        return all(
            ctypes.string_at(low, high - low) == bytes([_CANARY]) * (high - low)
            for low, high in (self._below, self._beyond)
        )


def guarded(like: Tensor) -> tuple[Tensor, Block]:
    """A tensor of the dtype, sizes and strides of ``like`` in a block of its own, all bits set."""
    elements = 1 + sum((n - 1) * s for n, s in zip(like.shape, like.stride(), strict=True))
    elements = elements if like.numel() else 0
    block = Block(max(elements, 1) * like.element_size(), 16)
    buffer = (ctypes.c_char * block.size).from_address(block.address)
    buffer.block = block  # lives as long as the tensor, which holds the buffer
    flat = torch.frombuffer(buffer, dtype=like.dtype, count=max(elements, 1))
    return flat.as_strided(like.shape, like.stride()), block
