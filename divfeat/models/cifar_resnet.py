"""He's ResNets for CIFAR: 6n + 2 layers, three stages of basic blocks, shortcuts without parameters.

Source: He et al. 2016, arXiv:1512.03385, section 4.2 and table 6 (0.27 M parameters for 20 layers, 0.46 M for 32).
Not to be taken for ImageNet's resnet34 (`torchvision_resnet.py`), which has 46 times the parameters of resnet32.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from divfeat.errors import ConfigError
from divfeat.models.backbone import Backbone, ImageShape, positive_int


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias (a batch norm follows) that keeps the size at stride 1."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def option_a(x: Tensor, out_channels: int, stride: int) -> Tensor:
    """The parameter-free shortcut: every `stride`-th pixel, new channels zero, as many before as after the old ones.

    Args:
        x: [B, C, H, W].
        out_channels: At least C.
        stride: 1 or more.

    Returns:
        [B, out_channels, ceil(H / stride), ceil(W / stride)].
    """
    extra = out_channels - x.shape[1]
    if stride > 1:
        # x[:, :, ::stride, ::stride], but with a gradient in the layout of x: a slice's is always NCHW, and the ReLU
        # backward that then meets two layouts takes 25 times as long on a CPU.
        x = F.avg_pool2d(x, 1, stride)
    return F.pad(x, (0, 0, 0, 0, extra // 2, extra - extra // 2)) if extra else x


class BasicBlock(nn.Module):
    """conv-bn-relu-conv-bn plus the option-A shortcut, then ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.out_channels = out_channels
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H / stride, W / stride]."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + option_a(x, self.out_channels, self.stride))


class CifarResNet(Backbone):
    """ResNet of 6n + 2 layers with 16, 32 and 64 channels times `width`; features of 64 x width."""

    def __init__(self, image_shape: ImageShape, *, depth: int, width: int = 1) -> None:
        """Builds the net.

        Args:
            image_shape: (channels, height, width); any size, published at 3x32x32.
            depth: 6n + 2 layers, counting the classifier's.
            width: Multiplies the channels; 2 is the wide one of Yang et al. 2022.

        Raises:
            ConfigError: `depth` is not 6n + 2, or `width` is not a whole number of at least 1.
        """
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ConfigError(f"depth = {depth}: a CIFAR ResNet has 6n + 2 layers (8, 14, 20, 32, ...)")
        base = 16 * positive_int("width", width)
        blocks = (depth - 2) // 6
        self.conv1 = conv3x3(image_shape[0], base)
        self.bn1 = nn.BatchNorm2d(base)
        self.stages = nn.Sequential(*(self._stage(base, stage, blocks) for stage in range(3)))
        self.out_dim = 4 * base

    @staticmethod
    def _stage(base: int, stage: int, blocks: int) -> nn.Sequential:
        out = base << stage
        first = BasicBlock(out // 2, out, 2) if stage else BasicBlock(base, base, 1)
        return nn.Sequential(first, *(BasicBlock(out, out, 1) for _ in range(blocks - 1)))

    def maps(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 64 x width, H / 4, W / 4]."""
        return self.stages(F.relu(self.bn1(self.conv1(images))))
