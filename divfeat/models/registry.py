"""Backbones by name. A new one is a file with a `Backbone` and one line here (docs/add-a-backbone.md)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from divfeat.errors import ConfigError, unknown
from divfeat.models.backbone import Backbone, ImageShape
from divfeat.models.cifar_resnet import CifarResNet
from divfeat.models.initialise import build_empty
from divfeat.models.small import Compact, DigitsCNN
from divfeat.models.torchvision_resnet import TorchvisionResNet
from divfeat.models.wide_resnet import WideResNet


@dataclass(frozen=True)
class Entry:
    """A named backbone: its class, one line about it, and the arguments that the name fixes."""

    build: type[Backbone]
    summary: str
    fixed: Mapping[str, int] = field(default_factory=dict)

    def options(self) -> dict[str, object]:
        """The options a user may set, with their defaults."""
        parameters = inspect.signature(self.build).parameters
        return {
            name: parameter.default
            for name, parameter in parameters.items()
            if name != "image_shape" and name not in self.fixed
        }


BACKBONES: dict[str, Entry] = {
    "digits_cnn": Entry(DigitsCNN, "three convolutions for 8x8 digits, 64-d, 23 thousand parameters"),
    "compact": Entry(Compact, "stride-2 stem and three basic blocks for CPU studies of 32x32 images, 128-d, 0.29 M"),
    "resnet8": Entry(CifarResNet, "He's CIFAR ResNet, 8 layers, 64-d, 0.08 M", {"depth": 8}),
    "resnet14": Entry(CifarResNet, "He's CIFAR ResNet, 14 layers, 64-d, 0.17 M", {"depth": 14}),
    "resnet20": Entry(CifarResNet, "He's CIFAR ResNet, 20 layers, 64-d, 0.27 M", {"depth": 20}),
    "resnet32": Entry(CifarResNet, "He's CIFAR ResNet, 32 layers, 64-d, 0.46 M", {"depth": 32}),
    "resnet44": Entry(CifarResNet, "He's CIFAR ResNet, 44 layers, 64-d, 0.66 M", {"depth": 44}),
    "resnet56": Entry(CifarResNet, "He's CIFAR ResNet, 56 layers, 64-d, 0.85 M", {"depth": 56}),
    "resnet18": Entry(TorchvisionResNet, "torchvision's ResNet-18, 512-d, 11.2 M", {"depth": 18}),
    "resnet34": Entry(TorchvisionResNet, "torchvision's ResNet-34, 512-d, 21.3 M", {"depth": 34}),
    "resnet50": Entry(TorchvisionResNet, "torchvision's ResNet-50, 2048-d, 23.5 M", {"depth": 50}),
    "wrn28_8": Entry(WideResNet, "WRN-28-8, 512-d, 23.4 M; any wrn<depth>_<k> works", {"depth": 28, "k": 8}),
}

_WIDE = re.compile(r"wrn(\d+)_(\d+)")


def entry_named(name: str) -> Entry:
    """The backbone called `name`: one of BACKBONES or wrn<depth>_<k>.

    Raises:
        ConfigError: No backbone has that name; lists those that exist and the nearest.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if wide := _WIDE.fullmatch(name):
        depth, k = map(int, wide.groups())
        return Entry(WideResNet, f"WRN-{depth}-{k}, {64 * k}-d", {"depth": depth, "k": k})
    raise ConfigError(unknown("backbone", name, [*BACKBONES, "wrn<depth>_<k>"]))


def create_backbone(
    name: str, image_shape: ImageShape, options: Mapping[str, object]
) -> tuple[Backbone, dict[str, object]]:
    """Builds the net with uninitialised weights.

    Args:
        name: See `entry_named`.
        image_shape: (channels, height, width).
        options: Keyword options of the backbone, such as width=2 or stem="small".

    Returns:
        The net on the CPU and its options in full: defaults filled in, "auto" resolved.

    Raises:
        ConfigError: Unknown name, unknown option, or a value that does not fit.
    """
    entry = entry_named(name)
    known = entry.options()
    for option in options:
        if option not in known:
            raise ConfigError(
                unknown(f"option of backbone {name!r}", option, known) if known else _optionless(name, options)
            )
    backbone = build_empty(lambda: entry.build(image_shape, **entry.fixed, **options))
    return backbone, {**known, **options, **backbone.resolved}


def _optionless(name: str, options: Iterable[str]) -> str:
    return f"backbone {name!r} takes no options, but got {', '.join(options)}: remove it"
