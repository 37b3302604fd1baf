from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from divfeat.data.decode import decode_images, resize_images
from divfeat.errors import DataError
from tests.data.conftest import encode, random_image


def decode(blobs: list[bytes], image_size: int | None = None) -> np.ndarray:
    return decode_images(
        len(blobs), lambda i: Image.open(io.BytesIO(blobs[i])), lambda i: f"row {i}", image_size=image_size
    )


def test_png_comes_back_exactly() -> None:
    pixels = [random_image(i, (7, 5)) for i in range(300)]
    out = decode([encode(p) for p in pixels])
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(out, np.stack(pixels).transpose(0, 3, 1, 2))


def test_jpeg_equals_pillow() -> None:
    blob = encode(random_image(0, (16, 16)), "JPEG")
    np.testing.assert_array_equal(decode([blob])[0].transpose(1, 2, 0), np.asarray(Image.open(io.BytesIO(blob))))


def test_threads_keep_the_order() -> None:
    pixels = [np.full((96, 96, 3), i % 256, dtype=np.uint8) for i in range(300)]
    out = decode([encode(p) for p in pixels])
    assert out[:, 0, 50, 50].tolist() == [i % 256 for i in range(300)]


@pytest.mark.parametrize("image_size", [None, 4])
def test_rows_are_cut_off_at_the_bottom_before_resizing(image_size: int | None) -> None:
    pixels = [random_image(i, (7, 5)) for i in range(3)]
    cut = [encode(p[:3]) for p in pixels]
    whole = [Image.open(io.BytesIO(encode(p))) for p in pixels]
    out = decode_images(3, lambda i: whole[i], lambda i: f"row {i}", image_size=image_size, crop_bottom=2)
    np.testing.assert_array_equal(out, decode(cut, image_size))
    array = np.stack(pixels).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(resize_images(array, image_size, 2), out)
    with pytest.raises(DataError, match="crop_bottom=5 leaves nothing of row 0, 5 pixels high: set it lower"):
        decode_images(
            1, lambda i: Image.open(io.BytesIO(encode(pixels[0]))), lambda i: f"row {i}", image_size=4, crop_bottom=5
        )
    with pytest.raises(DataError, match="crop_bottom=9 leaves nothing of the images, 5 pixels high"):
        resize_images(array, None, 9)


def test_modes_become_rgb() -> None:
    gray = random_image(0)[:, :, 0]
    np.testing.assert_array_equal(decode([encode(gray)])[0], np.stack([gray] * 3))
    clear = np.zeros((2, 2, 4), dtype=np.uint8)  # black under full transparency, except one solid red pixel
    clear[0, 0] = (255, 0, 0, 255)
    out = decode([encode(clear)])[0]
    assert out[:, 0, 0].tolist() == [255, 0, 0]
    assert out[:, 1, 1].tolist() == [255, 255, 255]
    buffer = io.BytesIO()  # a tRNS chunk: one colour of an RGB or gray image is transparent
    Image.fromarray(np.zeros((2, 2, 3), dtype=np.uint8)).save(buffer, "PNG", transparency=(0, 0, 0))
    assert (decode([buffer.getvalue()]) == 255).all()
    palette = decode([encode(np.full((2, 2, 3), 40, dtype=np.uint8), "PNG", "P")])[0]
    assert np.abs(palette.astype(int) - 40).max() <= 26  # the web palette has steps of 51
    cmyk = decode([encode(np.full((8, 8, 3), 200, dtype=np.uint8), "JPEG", "CMYK")])[0]
    assert np.abs(cmyk.astype(int) - 200).max() <= 3


def test_deep_images_are_refused() -> None:
    with pytest.raises(DataError, match="row 0 has more than 8 bits"):
        decode([encode(np.full((2, 2), 1000, dtype=np.uint16))])


def test_size_scales_the_short_side_and_cuts_the_centre() -> None:
    pixels = random_image(0, (24, 8))
    out = decode([encode(pixels), encode(random_image(1, (4, 4)))], image_size=4)
    assert out.shape == (2, 3, 4, 4)
    whole = Image.fromarray(pixels).resize((12, 4), Image.Resampling.BICUBIC)
    middle = np.asarray(whole, dtype=int)[:, 4:8].transpose(2, 0, 1)  # the outer thirds are gone
    assert np.abs(out[0] - middle).max() <= 1
    np.testing.assert_array_equal(out[1], random_image(1, (4, 4)).transpose(2, 0, 1))  # right size: untouched
    up = decode([encode(random_image(2, (3, 3)))], image_size=6)
    expected = Image.fromarray(random_image(2, (3, 3))).resize((6, 6), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(up[0].transpose(1, 2, 0), np.asarray(expected))


def test_resize_keeps_channels() -> None:
    images = np.stack([random_image(i, (8, 8))[:, :, :1].transpose(2, 0, 1) for i in range(3)])
    small = resize_images(images, 4)
    assert small.shape == (3, 1, 4, 4)
    expected = Image.fromarray(images[1, 0]).convert("RGB").resize((4, 4), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(small[1, 0], np.asarray(expected)[:, :, 0])
    assert resize_images(images, None) is images
    color = np.stack([random_image(i, (8, 8)).transpose(2, 0, 1) for i in range(2)])
    assert resize_images(color, 16).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("side", [6, 128])  # one thread, and several
def test_the_first_bad_image_is_named(side: int) -> None:
    good = encode(random_image(0, (side, side)))
    blobs = [good] * 400
    blobs[150], blobs[390] = good[: len(good) // 2], b"not an image"
    with pytest.raises(DataError, match=r"row 150 is not a readable image"):
        decode(blobs)
    blobs[150] = good
    with pytest.raises(DataError, match=r"row 390 is not a readable image"):
        decode(blobs)


def test_damaged_bytes_are_named_whatever_pillow_raises() -> None:
    good = encode(random_image(0, (12, 12)))
    rng = np.random.default_rng(0)
    for position in range(8, len(good), 7):
        bad = bytearray(good)
        bad[position] ^= int(rng.integers(1, 256))
        with contextlib.suppress(DataError):  # any other exception fails the test
            decode([bytes(bad)])


def test_mixed_sizes_ask_for_image_size() -> None:
    blobs = [encode(random_image(0, (6, 6))), encode(random_image(0, (6, 7)))]
    with pytest.raises(DataError, match="row 1 is 6 x 7 pixels but row 0 is 6 x 6: set image_size"):
        decode(blobs)
    assert decode(blobs, image_size=5).shape == (2, 3, 5, 5)
    with pytest.raises(DataError, match="image_size=0"):
        decode(blobs, image_size=0)


def test_files_are_closed(tmp_path: Path) -> None:
    Image.fromarray(random_image(0)).save(tmp_path / "a.png")
    opened: list[Image.Image] = []

    def open_image(i: int) -> Image.Image:
        opened.append(Image.open(tmp_path / "a.png"))
        return opened[-1]

    decode_images(3, open_image, str)
    assert all(image.fp is None for image in opened)
