"""The ops by name, as their declarations say: filled when ``fastalign.ops`` is imported.

The schemas are registered in the namespace ``fastalign`` of ``torch.library`` whether or not native
code was built. A native library offers the same names and arguments, without ``backend``, in the
namespace ``fastalign_native``.

A gradient that was not asked for comes back as an empty tensor of shape ``[0]``.
"""

from __future__ import annotations

from fastalign.ops.declaration import Op

NAMESPACE = "fastalign"

# Every op of torch that a declaration makes, and its arguments and results as
# torch.library.define takes them after the name.
OPS: dict[str, Op] = {}
SCHEMAS: dict[str, str] = {}

# The public ops; each names a file in fastalign/ops, in the native code and in the Triton kernels,
# and the ops ``<stem>_backward`` and ``<stem>_loss`` live in the same files.
STEMS: list[str] = []


def add(op: Op) -> None:
    """Make an op known by its name."""
    OPS[op.name] = op
    SCHEMAS[op.name] = op.schema
    if op.name == op.declaration.name:
        STEMS.append(op.name)


def stem_of(op: str) -> str:
    """The public op that ``op`` belongs to: ``warp_affine_backward`` -> ``warp_affine``."""
    for suffix in ("_backward", "_loss"):
        op = op.removesuffix(suffix)
    return op
