#!/bin/sh
# A white JPEG 2000 of 12 bits per colour, opened with Pillow.
#
# Guess before the first run: 255 255 255, since Pillow gives 8 bits of colour and the file states
# its 12.
# Found: 4088 to 4095 come out as 0. The samples are rounded to the nearest of 256 levels, and the
# level 256 is taken as 0: the brightest places of a photograph, reflections and overexposed parts,
# are black. Grey files are not concerned, since they stay at 16 bits.
#
# Ends with 0 while that is so, with 1 when Pillow has changed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check numpy==2.4.6 pillow==13.0.0 \
    imagecodecs==2026.3.6
"$work/venv/bin/python" - <<'PYTHON'
import io
import sys

import imagecodecs
import numpy as np
import PIL
from PIL import Image

values = np.full((16, 16, 3), 4087, np.uint16)
values[8:] = 4088
values[12:] = 4095
data = imagecodecs.jpeg2k_encode(values, level=0, reversible=True, bitspersample=12)
assert np.array_equal(imagecodecs.jpeg2k_decode(data), values)
pixels = np.asarray(Image.open(io.BytesIO(data)))
found = {int(values[row, 0, 0]): pixels[row, 0].tolist() for row in (0, 8, 12)}
for sample, shown in found.items():
    print(f"Pillow {PIL.__version__}: {sample} of 4095 becomes {shown} of 255")
same = found == {4087: [255] * 3, 4088: [0] * 3, 4095: [0] * 3}
print("as found before" if same else "changed")
sys.exit(not same)
PYTHON
