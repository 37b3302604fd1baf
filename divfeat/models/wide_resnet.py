"""Wide ResNets: pre-activation blocks, 16k, 32k and 64k channels, 1x1 projection where the width changes.

Source: Zagoruyko and Komodakis 2016, arXiv:1605.07146, table 1 (B(3,3) blocks without dropout). WRN-28-8 is the CIFAR
net of HAFrame, there with a slope of 0.1 below zero and a batch-norm momentum of 0.001, which are options here. In its released
code the blocks that begin stages two and three pass their input on before bn-relu; here all blocks are the published ones.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from divfeat.errors import ConfigError
from divfeat.models.backbone import Backbone, ImageShape, number_in, positive_int
from divfeat.models.cifar_resnet import conv3x3


class PreActivationBlock(nn.Module):
    """bn-relu-conv-bn-relu-conv plus the input, or its 1x1 convolution after bn-relu where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, slope: float, momentum: float) -> None:
        super().__init__()
        self.slope = slope
        self.bn1 = nn.BatchNorm2d(in_channels, momentum=momentum)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels, momentum=momentum)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.shortcut = (
            None if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H / stride, W / stride]."""
        active = _rectified(self.bn1(x), self.slope)
        residual = self.conv2(_rectified(self.bn2(self.conv1(active)), self.slope))
        return residual + (x if self.shortcut is None else self.shortcut(active))


def _rectified(x: Tensor, slope: float) -> Tensor:
    return F.leaky_relu(x, slope) if slope else F.relu(x)


class WideResNet(Backbone):
    """WRN-depth-k; features of 64k, non-negative unless `negative_slope` is given."""

    fan = "fan_out"

    def __init__(
        self,
        image_shape: ImageShape,
        *,
        depth: int,
        k: int,
        negative_slope: float = 0.0,
        bn_momentum: float = 0.1,
    ) -> None:
        """Builds the net.

        Args:
            image_shape: (channels, height, width); any size, published at 3x32x32.
            depth: 6n + 4 layers: 16, 22, 28, 40.
            k: Widening factor.
            negative_slope: Of every ReLU below zero, 0 to 1; HAFrame has 0.1.
            bn_momentum: Share of a batch in the running statistics, 0 to 1; HAFrame has 0.001.

        Raises:
            ConfigError: `depth` is not 6n + 4, `k` is below 1, or another option out of range.
        """
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise ConfigError(f"wrn{depth}_{k}: a wide ResNet has 6n + 4 layers (10, 16, 22, 28, 40); try wrn28_{k}")
        blocks = (depth - 4) // 6
        k = positive_int(f"k of wrn{depth}_{k}", k)
        self.slope = number_in("negative_slope", negative_slope, 0, 1)
        momentum = number_in("bn_momentum", bn_momentum, 0, 1)
        widths = (16, 16 * k, 32 * k, 64 * k)
        self.conv1 = conv3x3(image_shape[0], widths[0])
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    PreActivationBlock(before, after, 1 if stage == 0 else 2, self.slope, momentum),
                    *(PreActivationBlock(after, after, 1, self.slope, momentum) for _ in range(blocks - 1)),
                )
                for stage, (before, after) in enumerate(pairwise(widths))
            )
        )
        self.bn = nn.BatchNorm2d(widths[-1], momentum=momentum)
        self.out_dim = widths[-1]

    def maps(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 64k, H / 4, W / 4]."""
        return _rectified(self.bn(self.stages(self.conv1(images))), self.slope)
