"""TIFF files of any tags, made byte by byte, so that no library under test has written them."""

from __future__ import annotations

import struct


def tiff_file(tags, strips, order="<"):
    """``tags`` {code: (type letter of struct, values)}; ``strips`` the bytes of each strip."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    kinds = {"B": 1, "H": 3, "I": 4}
    offset = 8 + 2 + 12 * (len(tags) + 2) + 4
    tail = b""
    starts = []
    for strip in strips:
        starts.append(offset + len(tail))
        tail += strip
    tags = {**tags, 273: ("I", starts), 279: ("I", [len(strip) for strip in strips])}
    entries = b""
    for code, (kind, values) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(data) > 4:
            place = struct.pack(order + "I", offset + len(tail))
            tail += data
        else:
            place = data.ljust(4, b"\0")
        entries += struct.pack(order + "HHI", code, kinds[kind], len(values)) + place
    return head + struct.pack(order + "H", len(tags)) + entries + bytes(4) + tail


def pack(values, bits, order="<"):
    """Rows ``[H,N]`` of samples as TIFF packs them: highest bit first, rows begin with a byte."""
    if bits > 8 and bits % 8 == 0:
        return values.astype(f"{order}u{bits // 8}").tobytes()
    rows = []
    for row in values:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows.append(bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8)))
    return b"".join(rows)
