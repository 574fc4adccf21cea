"""Small PNG images of arrays in a palette, without a library for images."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from xconvert.model import Array

LARGEST = 160  # pixels a side: three images of noise stay below 110 kB of text
MISSING = 255  # the palette's last entry is for what is not finite
# viridis (Smith, van der Walt and Firing, CC0) at nine points: even steps look even, also in grey and to the colour-blind.
ANCHORS = np.frombuffer(bytes.fromhex("440154472c7a3b518b2c718e21908d27ad815cc863aadc32fde725"), np.uint8).reshape(9, 3)
GREY = (150, 150, 150)


def palette() -> bytes:
    """256 colours, three bytes each: 255 from dark to light, and grey for ``MISSING``."""
    at = np.linspace(0, len(ANCHORS) - 1, MISSING)
    channels = [np.interp(at, range(len(ANCHORS)), ANCHORS[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, 1)).astype(np.uint8).tobytes() + bytes(GREY)


def thinned(image: Array) -> tuple[Array, int]:
    """Every n-th row and column of (H, W), so that neither has more than ``LARGEST``; and n."""
    step = -(-max(image.shape) // LARGEST)
    return image[::step, ::step], step


def picture(image: Array, low: float, high: float) -> str:
    """(H, W) as a PNG in a data URI: ``low`` dark, ``high`` light, grey what is not finite."""
    values = image.astype(np.float64)
    finite = np.isfinite(values)
    span = high - low if high > low else 1.0
    levels = np.clip((np.where(finite, values, low) - low) / span, 0, 1) * (MISSING - 1)
    return _uri(np.where(finite, np.rint(levels), MISSING).astype(np.uint8))


def scale_bar() -> str:
    """The palette from low to high, one pixel in height."""
    return _uri(np.arange(MISSING, dtype=np.uint8)[None])


def photograph(image: Array) -> str:
    """(H, W, 3) uint8 as a PNG in a data URI, in its own colours."""
    return _encoded(image, 2)


def _uri(indices: Array) -> str:
    return _encoded(indices[..., None], 3, _chunk(b"PLTE", palette()))


def _encoded(image: Array, colour: int, *before: bytes) -> str:
    """(H, W, C) uint8 of PNG's type of ``colour``; ``before``: chunks that come before the pixels."""
    height, width, channels = image.shape
    lines = image.reshape(height, width * channels)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), lines], 1).tobytes()  # each row says that it is not filtered
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    parts = [_chunk(b"IHDR", head), *before, _chunk(b"IDAT", zlib.compress(rows, 9)), _chunk(b"IEND", b"")]
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
