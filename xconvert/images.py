"""Images as a network takes them: decoded, resized, cropped and normalised as a preprocessing table says.

Decoding is Pillow's (extra ``images``), of the formats that need no other program; arrays and ``.npy`` files do without. An image
is never turned as its camera says unless the table's ``exif`` asks for it: timm, torchvision and Keras do not, OpenCV does.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xconvert.errors import UnreadableError, UsageError
from xconvert.formats.npz import read_bytes
from xconvert.model import Array
from xconvert.preprocessing import DEFAULTS
from xconvert.resampling import Manner, Span, resize
from xconvert.tuples import NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image

# What Pillow decodes with libraries of its own: PostScript, for one, would run another program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".npy")
MAX_PIXELS = 100_000_000  # of an image; 300 MB decoded
MAX_ASPECT = 1000  # longer side to shorter one
MODES = {"RGB": "RGB", "BGR": "RGB", "GRAY": "L"}


class Geometry(NamedTuple):
    """The part of an image that is resized, ``top`` and ``left`` its first pixel, and what is wanted of the result."""

    top: int
    left: int
    height: int
    width: int
    rows: Span
    columns: Span


def prepare(image: str | Path | Array, preprocessing: Mapping[str, Any]) -> Array:
    """An image as a network's input: (size, size, C) float32, normalised.

    ``image``: a file, or an array (H, W, C) uint8. ``preprocessing``: a table as in the mapping files, complete as ``complete``
    makes it. Raises ``UnreadableError`` for what is no image, and ``UsageError`` where Pillow is missing.
    """
    pixels = read(image, preprocessing)
    return normalise(fit(pixels, preprocessing), preprocessing)


def complete(preprocessing: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``preprocessing`` with what goes without saying; ``where`` is the checkpoint's name in messages.

    Raises ``UsageError`` where it does not say how images are normalised or how large they are, or what cannot be computed.
    """
    if lacking := [name for name in ("size", "mean", "std") if name not in preprocessing]:
        names = " nor ".join(f"`{name}`" for name in lacking)
        told = f"says neither {names}" if len(lacking) > 1 else f"does not say {names}"
        raise UsageError(
            f"`{where}` {told} of its images",
            facts=["a network answers nonsense on images that are normalised otherwise than it was trained with"],
            hints=["state it: `--set size=299 --set mean=0.5 --set std=0.5` makes pixels -1 to 1"],
        )
    channels = 1 if preprocessing.get("channels") == "GRAY" else 3
    table = {
        "channels": "RGB",
        "interpolation": "bilinear",
        "crop": "centre" if "resize" in preprocessing else "none",
        **DEFAULTS,
    }
    table |= preprocessing
    for name in ("mean", "std"):
        table[name] = list(table[name]) * (channels if len(table[name]) == 1 else 1)
    resized = table.get("resize", table["size"])
    if table["crop"] == "centre" and resized < table["size"]:
        facts = [f"the shorter side is resized to {resized} pixels, and {table['size']} are taken of it"]
        raise UsageError(f"images of `{where}` are smaller than their crop", facts=facts, hints=["pass `--set resize=…`"])
    return table


def read(image: str | Path | Array, preprocessing: Mapping[str, Any]) -> Array:
    """The pixels of a file or of an array, (H, W, C) uint8, in the order of channels that ``preprocessing`` asks for."""
    if isinstance(image, np.ndarray):
        pixels, where = image, "the image"
    else:
        path, where = Path(image), f"`{image}`"
        _check_file(path)
        mode = MODES[preprocessing.get("channels", "RGB")]
        pixels = _array(path) if path.suffix.lower() == ".npy" else _decoded(path, mode, preprocessing.get("exif", False))
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or 0 in pixels.shape:
        told = f"{pixels.dtype} of shape {pixels.shape}"
        raise UnreadableError(f"{where} is no image: {told}", facts=["expected uint8 of shape (H, W, C), channels last"])
    height, width = pixels.shape[:2]
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise UnreadableError(f"{where} is {width} × {height} pixels, too long a strip to be an image")
    return pixels[..., ::-1] if preprocessing.get("channels") == "BGR" else pixels


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise UnreadableError(f"`{path}` is a folder, no image", hints=["`xconvert evaluate FILE FOLDER` takes a folder"])
        if not path.exists():
            raise UnreadableError(f"`{path}` does not exist")
        if not path.is_file():
            raise UnreadableError(f"`{path}` is no file")
    except (OSError, ValueError) as error:  # a name that cannot be
        raise UnreadableError(f"`{path}` cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _array(path: Path) -> Array:
    if path.stat().st_size > 4 * MAX_PIXELS:
        raise UnreadableError(f"`{path}` is too large for an image")
    return read_bytes(path)


def _decoded(path: Path, mode: str, exif: bool) -> Array:
    """What Pillow makes of a file: the first frame, converted to ``mode``."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        hints = ["`pip install 'xconvert[images]'`", "or give `.npy` files of shape (H, W, 3), uint8"]
        raise UsageError("images are decoded by Pillow, which is not installed", hints=hints) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes that are looked at here
            with Image.open(path, formats=FORMATS) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    size = f"{opened.width} × {opened.height}"
                    raise UnreadableError(f"`{path}` has {size} pixels", facts=[f"at most {MAX_PIXELS:,} are decoded"])
                found = _turned(opened) if exif else opened
                pixels = np.asarray(found if found.mode == mode else found.convert(mode))
    except UnreadableError:
        raise
    except Image.DecompressionBombError:
        facts = [f"at most {MAX_PIXELS:,} are decoded"]
        raise UnreadableError(f"`{path}` has too many pixels", facts=facts) from None
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise UnreadableError(f"`{path}` is no image", facts=[f"read are {kinds} and `.npy`"]) from None
    except Exception as error:  # its decoders raise whatever they meet in a damaged file
        raise UnreadableError(f"`{path}` is damaged: {_clause(error)}") from None
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _turned(image: Image) -> Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _clause(error: Exception) -> str:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return text[:1].lower() + text[1:]


def fit(pixels: Array, preprocessing: Mapping[str, Any]) -> Array:
    """(H, W, C) uint8 resized and cropped: (size, size, C) uint8, or float32 where the table's ``rounding`` is ``"none"``."""
    part = geometry(pixels.shape[0], pixels.shape[1], preprocessing)
    manner = Manner(*(preprocessing[name] for name in ("interpolation", "antialias", "rounding", "grid")))
    inside = pixels[part.top : part.top + part.height, part.left : part.left + part.width]
    return resize(inside, part.rows, part.columns, manner)


def geometry(height: int, width: int, preprocessing: Mapping[str, Any]) -> Geometry:
    """Which part of an image of ``height`` by ``width`` pixels is resized to what, and which pixels of that are taken."""
    size, crop = preprocessing["size"], preprocessing["crop"]
    whole = Span(size, 0, size)
    if crop == "none":
        return Geometry(0, 0, height, width, whole, whole)
    if crop == "square":
        side = min(height, width)
        return Geometry((height - side) // 2, (width - side) // 2, side, side, whole, whole)
    if crop == "central fraction":  # as tf.image.central_crop rounds
        fraction = preprocessing.get("fraction", size / preprocessing.get("resize", size))
        top, left = (int((pixels - pixels * fraction) / 2) for pixels in (height, width))
        return Geometry(top, left, height - 2 * top, width - 2 * left, whole, whole)
    shorter = preprocessing.get("resize", size)
    spans = []
    for pixels in (height, width):
        if preprocessing["longer_side"] == "nearest":
            resized = round(pixels * (shorter / min(height, width)))  # in PaddleClas' order, in which ties round otherwise
        else:
            resized = int(shorter * pixels / min(height, width))
        spare = resized - size
        spans.append(Span(resized, round(spare / 2) if preprocessing["offset"] == "nearest" else spare // 2, size))
    return Geometry(0, 0, height, width, *spans)


def normalise(pixels: Array, preprocessing: Mapping[str, Any]) -> Array:
    """(pixels / 255 - mean) / std in float32, channel by channel, as torchvision's ``Normalize`` computes it."""
    mean, std = (np.array(preprocessing[name], np.float32) for name in ("mean", "std"))
    if pixels.shape[2] != len(mean):
        told = f"it has {pixels.shape[2]} channels, the network takes {len(mean)}"
        raise UnreadableError("an image does not fit the network", facts=[told])
    found: Array = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return found
