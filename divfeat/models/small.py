"""Nets for studies on a CPU: `DigitsCNN` for 8x8 digits, `Compact` for 32x32 images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from divfeat.models.backbone import Backbone, ImageShape
from divfeat.models.cifar_resnet import BasicBlock, conv3x3


class DigitsCNN(Backbone):
    """Three 3x3 convolutions (16, 32, 64 channels; the last two at stride 2), each with batch norm and ReLU; 64-d."""

    def __init__(self, image_shape: ImageShape) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in ((image_shape[0], 16, 1), (16, 32, 2), (32, 64, 2)):
            layers += [conv3x3(before, after, stride), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.out_dim = 64

    def maps(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 64, H / 4, W / 4]."""
        return self.layers(images)


class Compact(Backbone):
    """A stem of 16 channels at stride 2, then one basic block each of 32, 64 and 128 channels at stride 2; 128-d.

    2.8 M multiply-adds a 32x32 image, a fourteenth of ResNet-20's 41 M: a CPU core reaches the terminal phase with it.
    Shortcuts are option A, which cost nothing (projections would add 10 % to the arithmetic).
    """

    def __init__(self, image_shape: ImageShape) -> None:
        super().__init__()
        self.conv1 = conv3x3(image_shape[0], 16, stride=2)
        self.bn1 = nn.BatchNorm2d(16)
        self.stages = nn.Sequential(BasicBlock(16, 32, 2), BasicBlock(32, 64, 2), BasicBlock(64, 128, 2))
        self.out_dim = 128

    def maps(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 128, H / 16, W / 16]."""
        return self.stages(F.relu(self.bn1(self.conv1(images))))
