"""torchvision's ResNet-18, 34 and 50, with the stem that fits the image size.

Source: He et al. 2016, arXiv:1512.03385, table 1. The ImageNet stem (7x7, stride 2, max-pool) throws away most of a
32-pixel image; the usual remedy, taken here for images up to 64 pixels, is a 3x3 stem at stride 1 without the pool.
"""

from __future__ import annotations

import logging
from typing import Literal

from torch import Tensor, nn

from divfeat.errors import ConfigError
from divfeat.models.backbone import Backbone, ImageShape

logger = logging.getLogger(__name__)

SMALL_IMAGE = 64
"""Pixels a side up to which stem="auto" means "small"."""


class TorchvisionResNet(Backbone):
    """ResNet-18, 34 (features of 512) or 50 (2048) without its classifier."""

    fan = "fan_out"

    def __init__(
        self, image_shape: ImageShape, *, depth: Literal[18, 34, 50], stem: Literal["auto", "small", "large"] = "auto"
    ) -> None:
        """Builds the net.

        Args:
            image_shape: (channels, height, width).
            depth: 18, 34 or 50.
            stem: "small" = 3x3, stride 1, no pool; "large" = 7x7, stride 2, max-pool; "auto" = small up to 64 pixels a
                side, which is logged and recorded in the extractor's config.

        Raises:
            ConfigError: `stem` is none of these.
        """
        super().__init__()
        if stem not in ("auto", "small", "large"):
            raise ConfigError(f'stem = {stem!r} of resnet{depth}: choose "auto", "small" or "large"')
        from torchvision.models import resnet  # seconds to import, and most studies on a CPU do without

        channels, height, width = image_shape
        if stem == "auto":
            stem = "small" if max(height, width) <= SMALL_IMAGE else "large"
            logger.info("resnet%d: %s stem, picked for images of %dx%d pixels", depth, stem, height, width)
        self.resolved = {"stem": stem}
        net = getattr(resnet, f"resnet{depth}")(weights=None)
        self.out_dim = net.fc.in_features
        net.fc = nn.Identity()
        kernel, stride = (3, 1) if stem == "small" else (7, 2)
        net.conv1 = nn.Conv2d(channels, 64, kernel, stride, padding=kernel // 2, bias=False)
        if stem == "small":
            net.maxpool = nn.Identity()
        self.net = net

    @property
    def pretrained(self) -> nn.Module:
        """torchvision's net."""
        return self.net

    def maps(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, out_dim, H', W']; 7 x 7 maps of 224 pixels with the large stem."""
        net = self.net
        return net.layer4(net.layer3(net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(images))))))))
