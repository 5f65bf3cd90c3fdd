"""Why a file could not be decoded, by its first bytes and by what its decoder says."""

from __future__ import annotations

from pathlib import Path

from fastalign.data.pillow import NoImage

_UNREAD_KINDS = (
    (b"\xff\xd8\xff\xf7", "JPEG-LS"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"II\xbc", "JPEG XR"),
    (b"\xff\x10\xff\x50", "JPEG XS"),
    (b"P7\n", "PAM"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"version https://git-lfs", "a pointer of Git LFS, whose content was not fetched"),
)


def explain(path: Path, noun: str, error: Exception) -> str:
    """Why a file could not be decoded, and what to do; ``noun`` is what messages call it."""
    again = f"replace it by an intact {noun} or leave it out (--skip-bad)."
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as cause:
        return f"cannot be read: {cause.strerror}; {again}"
    if not head:
        return f"the file is empty; {again}"
    if "truncated" in str(error).lower() or "failed to read" in str(error):
        return f"the {noun} is truncated ({error}); {again}"
    if (kind := _kind_of(head)) is not None:
        return (
            f"the {noun} is of a kind that is not read ({kind}); convert it to PNG or TIFF, "
            "or leave it out (--skip-bad)."
        )
    if all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head):
        return f"this is a text file in the place of the {noun}; {again}"
    if isinstance(error, NoImage):
        return f"this is no image of a format that can be read; {again}"
    reason = str(error) or type(error).__name__
    if _names_a_kind(reason):
        return (
            f"the {noun} is of a kind that is not read ({reason}); convert it to PNG or TIFF of 8 "
            "or 16 bits per sample, grey or RGB, or leave it out (--skip-bad)."
        )
    return f"the {noun} is damaged ({type(error).__name__}: {reason}); {again}"


def _kind_of(head: bytes) -> str | None:
    """The name of a format that a file's first bytes show, of those that are not read."""
    return next((name for start, name in _UNREAD_KINDS if head.startswith(start)), None)


def _names_a_kind(reason: str) -> bool:
    words = ("unsupported", "not supported", "not implemented", "cannot handle", "not available")
    return any(word in reason.lower() for word in (*words, "unknown pixel mode", "compression."))
