#!/bin/sh
# The same four 12-bit samples, 0 1 2048 4095, in three files that state their 12 bits: PGM by its
# largest value 4095, TIFF by BitsPerSample 12, JPEG 2000 by its precision.
#
# Guess before the first run: each library has a rule, either the samples as stored or scaled up to
# 16 bits, for all formats alike.
# Found: none has. Pillow scales PGM and JPEG 2000 and not TIFF, OpenCV scales TIFF and not PGM and
# JPEG 2000; even where both scale, one multiplies by 16 and the other by 65535/4095. A program that
# takes what it gets for 16 bits is right for some of the files and 16 times too dark for others.
#
# Ends with 0 while that is so, with 1 when a library has changed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check numpy==2.4.6 pillow==13.0.0 \
    opencv-python-headless==5.0.0.93 tifffile==2026.3.3 imagecodecs==2026.3.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import struct
import sys

import cv2
import imagecodecs
import numpy as np
import PIL
import tifffile
from PIL import Image

samples = [0, 1, 2048, 4095]
row = np.array([samples], np.uint16)

with open("x.pgm", "wb") as file:
    file.write(b"P5\n4 1\n4095\n" + row.astype(">u2").tobytes())

packed = b"".join(((a << 12) | b).to_bytes(3, "big") for a, b in (samples[:2], samples[2:]))
tags = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 0), (277, 1), (278, 1), (279, 6)]
start = 8 + 2 + 12 * len(tags) + 4
entries = b"".join(
    struct.pack("<HHII", code, 4, 1, start if code == 273 else value) for code, value in tags
)
with open("x.tif", "wb") as file:
    file.write(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + packed)

# Larger than one row, since the wavelets of some encoders ask for it.
tall = np.repeat(row, 4, axis=0)
with open("x.jp2", "wb") as file:
    file.write(imagecodecs.jpeg2k_encode(tall, level=0, reversible=True, bitspersample=12))

readers = {
    f"Pillow {PIL.__version__}": lambda name: np.asarray(Image.open(name)),
    f"OpenCV {cv2.__version__}": lambda name: cv2.imread(name, cv2.IMREAD_UNCHANGED),
    f"tifffile {tifffile.__version__}": lambda name: (
        tifffile.imread(name) if name.endswith("tif") else None
    ),
}
found = {}
for reader, read in readers.items():
    for name in ("x.pgm", "x.tif", "x.jp2"):
        values = read(name)
        if values is not None:
            found[reader.split()[0], name] = values[0].tolist()
            print(f"{reader:20} {name}  {values[0].tolist()}")

stored, shifted, stretched = samples, [16 * v for v in samples], [0, 16, 32776, 65535]
expected = {
    ("Pillow", "x.pgm"): stretched,
    ("Pillow", "x.tif"): stored,
    ("Pillow", "x.jp2"): shifted,
    ("OpenCV", "x.pgm"): stored,
    ("OpenCV", "x.tif"): shifted,
    ("OpenCV", "x.jp2"): stored,
    ("tifffile", "x.tif"): stored,
}
changed = [key for key in expected if found[key] != expected[key]]
print("as found before" if not changed else f"changed: {changed}")
sys.exit(bool(changed))
PYTHON
