"""Image operations of the augmentation policies, batched: each image with an amount of its own, on the images' device.

Every operation maps (uint8 [B, C, H, W], one amount an image [B]) to uint8 [B, C, H, W]; what becomes of an image depends
on it and its amount alone. They follow torchvision's `transforms.functional` on single tensors, with nearest-neighbour
sampling and black outside. The geometric ones compute in float64, so that devices agree; at places that lie midway between
two pixels torchvision's float32 falls to either side.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Operation = Callable[[Tensor, Tensor], Tensor]


# --- geometry ---------------------------------------------------------------------------------------------------------


def shear_x(images: Tensor, amount: Tensor) -> Tensor:
    """Move each row to the left by amount times its distance from the top edge, in pixels."""
    x, y = _centres(images)
    return _nearest(images, x + amount.double()[:, None, None] * y - 0.5, y - 0.5)


def shear_y(images: Tensor, amount: Tensor) -> Tensor:
    """Move each column up by amount times its distance from the left edge, in pixels."""
    x, y = _centres(images)
    return _nearest(images, x - 0.5, y + amount.double()[:, None, None] * x - 0.5)


def translate_x(images: Tensor, amount: Tensor) -> Tensor:
    """Move to the right by amount pixels, cut to a whole number."""
    x, y = _centres(images)
    return _nearest(images, x - 0.5 - amount.double().trunc()[:, None, None], y - 0.5)


def translate_y(images: Tensor, amount: Tensor) -> Tensor:
    """Move down by amount pixels, cut to a whole number."""
    x, y = _centres(images)
    return _nearest(images, x - 0.5, y - 0.5 - amount.double().trunc()[:, None, None])


def rotate(images: Tensor, amount: Tensor) -> Tensor:
    """Turn counter-clockwise about the centre by amount degrees."""
    radians = (amount.double() * (math.pi / 180))[:, None, None]
    cosine, sine = radians.cos(), radians.sin()
    height, width = images.shape[-2:]
    x, y = _centres(images)
    x, y = x - width / 2, y - height / 2
    return _nearest(images, cosine * x - sine * y + (width - 1) / 2, sine * x + cosine * y + (height - 1) / 2)


def _centres(images: Tensor) -> tuple[Tensor, Tensor]:
    """x [W] and y [H, 1] of the pixels' centres, in pixels from the upper left corner."""
    height, width = images.shape[-2:]
    x = torch.arange(width, dtype=torch.float64, device=images.device) + 0.5
    y = torch.arange(height, dtype=torch.float64, device=images.device) + 0.5
    return x, y[:, None]


def _nearest(images: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Pixels at the nearest whole (row, column), each broadcastable to [B, H, W]; black outside the image."""
    height, width = images.shape[-2:]
    column, row = column.round().long(), row.round().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    place = place.expand(len(images), height, width).flatten(1)
    found = images.flatten(2).gather(2, place[:, None].expand(-1, images.shape[1], -1)).view_as(images)
    return found * inside[:, None]


# --- colour -----------------------------------------------------------------------------------------------------------


def brightness(images: Tensor, amount: Tensor) -> Tensor:
    """Away from black by the factor 1 + amount."""
    return _blend(images, torch.zeros((), device=images.device), amount)


def color(images: Tensor, amount: Tensor) -> Tensor:
    """Away from its own grey image by the factor 1 + amount; images of one channel stay."""
    return images if images.shape[1] == 1 else _blend(images, _gray(images).float(), amount)


def contrast(images: Tensor, amount: Tensor) -> Tensor:
    """Away from its mean grey by the factor 1 + amount."""
    gray = _gray(images).long()
    return _blend(images, gray.sum((1, 2, 3), keepdim=True).float() / gray[0].numel(), amount)


def sharpness(images: Tensor, amount: Tensor) -> Tensor:
    """Away from its smoothed image (3x3, the centre weighs 5 of 13; borders stay) by the factor 1 + amount."""
    if min(images.shape[-2:]) <= 2:
        return images
    whole = images.float()
    rows = whole[..., :-2, :] + whole[..., 1:-1, :] + whole[..., 2:, :]
    summed = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = whole.clone()
    smooth[..., 1:-1, 1:-1] = ((summed + 4 * whole[..., 1:-1, 1:-1]) / 13).round()
    return _blend(images, smooth, amount)


def _gray(images: Tensor) -> Tensor:
    """uint8 [B, 1, H, W]."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).to(torch.uint8)[:, None]


def _blend(images: Tensor, other: Tensor, amount: Tensor) -> Tensor:
    """(1 + amount) images - amount other, cut to 0..255 and to whole numbers."""
    factor = (1.0 + amount.double())[:, None, None, None]
    return (factor.float() * images + (1.0 - factor).float() * other).clamp(0, 255).to(torch.uint8)


# --- values -----------------------------------------------------------------------------------------------------------


def posterize(images: Tensor, amount: Tensor) -> Tensor:
    """Keep the amount (0 to 8) highest bits."""
    low = 8 - amount.long().clamp(0, 8)[:, None, None, None]
    return torch.bitwise_left_shift(torch.bitwise_right_shift(images.long(), low), low).to(torch.uint8)


def solarize(images: Tensor, amount: Tensor) -> Tensor:
    """Invert what is at least amount (0 to 255)."""
    return torch.where(images >= amount[:, None, None, None], 255 - images, images)


def autocontrast(images: Tensor, amount: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a channel of one value stays. The amount is not used."""
    low = images.amin((2, 3), keepdim=True).float()
    span = images.amax((2, 3), keepdim=True).float() - low
    flat = span == 0
    scale = torch.where(flat, 1.0, 255.0 / span)
    return ((images - torch.where(flat, 0.0, low)) * scale).clamp(0, 255).to(torch.uint8)


def equalize(images: Tensor, amount: Tensor) -> Tensor:
    """Flatten each channel's histogram; a channel with too few values to do so stays. The amount is not used."""
    values = images.flatten(2).long()
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    largest = counts.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - largest) // 255
    # The table of value v counts the pixels below v.
    table = ((counts.cumsum(2) - counts + step // 2) // step.clamp(min=1)).clamp(0, 255)
    table = torch.where(step == 0, torch.arange(256, device=images.device), table)
    return table.gather(2, values).to(torch.uint8).view_as(images)


def invert(images: Tensor, amount: Tensor) -> Tensor:
    """255 minus each value. The amount is not used."""
    return 255 - images


def identity(images: Tensor, amount: Tensor) -> Tensor:
    """Nothing. The amount is not used."""
    return images


#: By torchvision's names.
OPERATIONS: dict[str, Operation] = {
    "Identity": identity,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Rotate": rotate,
    "Brightness": brightness,
    "Color": color,
    "Contrast": contrast,
    "Sharpness": sharpness,
    "Posterize": posterize,
    "Solarize": solarize,
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
}
