"""The schema of every op, in one place: name, arguments, results.

The strings are registered in the namespace ``fastalign`` of ``torch.library`` whether or not native
code was built. A native library offers the same names and arguments, without ``backend``, in the
namespace ``fastalign_native``.

A gradient that was not asked for comes back as an empty tensor of shape ``[0]``.
"""

from __future__ import annotations

NAMESPACE = "fastalign"

# name -> arguments and results, as torch.library.define takes them after the name.
SCHEMAS: dict[str, str] = {
    "dense_similarity": ('(Tensor p, Tensor z, Tensor? groups=None, str backend="auto") -> Tensor'),
    "dense_similarity_backward": (
        "(Tensor grad, Tensor p, Tensor z, Tensor? groups, bool need_p, bool need_z, "
        'str backend="auto") -> (Tensor, Tensor)'
    ),
    "dense_similarity_loss": (
        "(Tensor p, Tensor z, Tensor? groups, bool need_p, bool need_z, "
        'str backend="auto") -> (Tensor, Tensor, Tensor)'
    ),
    "pairwise_distance": (
        "(Tensor h, Tensor? mask=None, Tensor? groups=None, bool squared=False, "
        'str backend="auto") -> Tensor'
    ),
    "pairwise_distance_backward": (
        "(Tensor grad, Tensor h, Tensor? mask, Tensor? groups, bool squared, "
        'str backend="auto") -> Tensor'
    ),
    "pairwise_distance_loss": (
        "(Tensor h, Tensor? mask, Tensor? groups, bool squared, bool need_h, "
        'str backend="auto") -> (Tensor, Tensor)'
    ),
    "warp_affine": (
        '(Tensor x, Tensor theta, SymInt[2] size, str mode="bilinear", '
        'str padding_mode="zeros", bool align_corners=False, str backend="auto") -> Tensor'
    ),
    "warp_affine_backward": (
        "(Tensor grad, Tensor x, Tensor theta, str mode, str padding_mode, bool align_corners, "
        "bool need_x, bool need_theta, bool deterministic, "
        'str backend="auto") -> (Tensor, Tensor)'
    ),
    "mahalanobis": (
        '(Tensor x, Tensor mean, Tensor whitener, bool squared=False, str backend="auto") -> Tensor'
    ),
    "mahalanobis_backward": (
        "(Tensor grad, Tensor x, Tensor mean, Tensor whitener, bool squared, bool need_x, "
        "bool need_mean, bool need_whitener, "
        'str backend="auto") -> (Tensor, Tensor, Tensor)'
    ),
}

# The public ops; each names a file in fastalign/ops, in the native code and in the Triton kernels,
# and the ops ``<stem>_backward`` and ``<stem>_loss`` live in the same files.
STEMS = ("dense_similarity", "pairwise_distance", "warp_affine", "mahalanobis")


def stem_of(op: str) -> str:
    """The public op that ``op`` belongs to: ``warp_affine_backward`` -> ``warp_affine``."""
    for suffix in ("_backward", "_loss"):
        op = op.removesuffix(suffix)
    return op
