"""From encoded images to one uint8 array."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from divfeat.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow lets go of the interpreter while it decodes. Below about this many pixels Python's own share dominates and
# threads only get in each other's way (32x32 JPEG on two cores: 1.5 times slower with them).
_THREADS_FROM_PIXELS = 96 * 96
_CHUNK = 128


def decode_images(
    count: int,
    open_image: Callable[[int], Image],
    where: Callable[[int], str],
    *,
    image_size: int | None = None,
    crop_bottom: int = 0,
) -> np.ndarray:
    """Decode images 0..count-1 to RGB.

    Grayscale is repeated over the channels; transparency is laid on white. Pixels are taken as stored (EXIF rotation is
    not applied).

    Args:
        count: number of images, at least 1.
        open_image: gives image i, opened by Pillow.
        where: names image i for a message (file and row).
        image_size: side in pixels: the shorter side is scaled to it (bicubic) and the centre cut out. None keeps the
            images as they are, which must then share one size.
        crop_bottom: rows of pixels cut off at the bottom first: a banner.

    Returns:
        uint8 [count, 3, H, W].

    Raises:
        DataError: an image that cannot be read or is no higher than ``crop_bottom``, or images of different sizes without
            ``image_size``.
    """
    if image_size is not None and image_size < 1:
        raise DataError(f"image_size={image_size} must be at least 1 pixel")
    width, height, pixels = _load(0, open_image, where, image_size, crop_bottom)[1:]
    images = np.empty((count, 3, height, width), dtype=np.uint8)

    def fill(start: int) -> None:
        for i in range(start, min(start + _CHUNK, count)):
            data, w, h, _ = _load(i, open_image, where, image_size, crop_bottom)
            if (w, h) != (width, height):
                raise DataError(
                    f"{where(i)} is {w} x {h} pixels but {where(0)} is {width} x {height}: set image_size to bring "
                    "them to one size"
                )
            images[i] = np.frombuffer(data, dtype=np.uint8).reshape(h, w, 3).transpose(2, 0, 1)

    starts = range(0, count, _CHUNK)
    threads = min(_cores(), len(starts)) if pixels >= _THREADS_FROM_PIXELS else 1
    if threads == 1:
        for start in starts:
            fill(start)
    else:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(fill, starts):  # in order: the first bad image is the one that is named
                pass
    return images


def resize_images(images: np.ndarray, image_size: int | None, crop_bottom: int = 0) -> np.ndarray:
    """Bring uint8 [N, C, H, W] to ``image_size`` (side in pixels) as :func:`decode_images` would; C stays.

    Raises:
        DataError: an ``image_size`` below 1 pixel, or images no higher than ``crop_bottom``.
    """
    if crop_bottom:
        _check_crop(crop_bottom, images.shape[2], "the images")
        images = images[:, :, :-crop_bottom]
    if image_size is None or images.shape[2:] == (image_size, image_size):
        return np.ascontiguousarray(images)
    from PIL import Image

    gray = images.shape[1] == 1

    def open_image(i: int) -> Image.Image:
        return Image.fromarray(images[i, 0] if gray else np.ascontiguousarray(images[i].transpose(1, 2, 0)))

    out = decode_images(len(images), open_image, lambda i: f"image {i}", image_size=image_size)
    return np.ascontiguousarray(out[:, :1]) if gray else out


def _load(
    i: int, open_image: Callable[[int], Image], where: Callable[[int], str], image_size: int | None, crop_bottom: int
) -> tuple[bytes, int, int, int]:
    """RGB bytes, width, height of image i, and the pixels it had before resizing."""
    from PIL import Image as pil
    from PIL import ImageOps

    try:
        with open_image(i) as image:
            image.load()
            pixels = image.width * image.height
            rgb = image if image.mode == "RGB" and "transparency" not in image.info else _to_rgb(image, where(i))
            if crop_bottom:
                _check_crop(crop_bottom, rgb.height, where(i))
                rgb = rgb.crop((0, 0, rgb.width, rgb.height - crop_bottom))
            if image_size is not None and rgb.size != (image_size, image_size):
                rgb = ImageOps.fit(rgb, (image_size, image_size), method=pil.Resampling.BICUBIC)
            return rgb.tobytes(), *rgb.size, pixels
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, pil.DecompressionBombError) as error:
        raise DataError(f"{where(i)} is not a readable image ({error}): mend or remove it") from error


def _check_crop(crop_bottom: int, height: int, name: str) -> None:
    if crop_bottom >= height:
        raise DataError(f"crop_bottom={crop_bottom} leaves nothing of {name}, {height} pixels high: set it lower")


def _to_rgb(image: Image, name: str) -> Image:
    from PIL import Image as pil

    if image.mode.startswith(("I", "F")):
        raise DataError(f"{name} has more than 8 bits a channel (mode {image.mode}): convert it to 8 bits first")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return pil.alpha_composite(pil.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
