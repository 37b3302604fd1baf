"""Images with their channels last: the same numbers, in the layout PyTorch's own conversion gives."""

from __future__ import annotations

import pytest
import torch

from divfeat.models import with_channels_last


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("size", [(0, 3, 4, 4), (1, 3, 1, 1), (2, 1, 8, 8), (5, 3, 7, 9)])
def test_the_same_numbers_in_pytorchs_layout(size: tuple[int, ...], dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = images.contiguous(memory_format=torch.channels_last)
    for given in (images, expected, images.repeat(1, 1, 1, 2)[..., : size[3]]):
        found = with_channels_last(given)
        assert torch.equal(found, images) and found.is_contiguous(memory_format=torch.channels_last)
    assert with_channels_last(expected) is expected


def test_a_gradient_passes() -> None:
    images = torch.rand(2, 3, 4, 5, requires_grad=True)
    weights = torch.rand(2, 3, 4, 5)
    (found,) = torch.autograd.grad((with_channels_last(images) * weights).sum(), images)
    assert torch.equal(found, weights)
