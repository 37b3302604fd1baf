"""Initial weights from a generator of their own: a seed gives the same weights whatever else the process has drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeVar

import torch
from torch import nn

from divfeat.seeding import stream_seed

FanMode = Literal["fan_in", "fan_out"]
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def keyed_generator(seed: int, key: str) -> torch.Generator:
    """A CPU generator for one component: same (seed, key), same stream; another key, an unrelated one."""
    return torch.Generator().manual_seed(stream_seed(seed, key))


def build_empty(factory: Callable[[], ModuleT]) -> ModuleT:
    """Builds a module on the CPU with uninitialised memory, without drawing from the global random state.

    The constructors of `torch.nn` fill their weights from the global generator; on the meta device there is nothing to
    fill. The caller must then initialise every parameter and buffer (`initialise`, `initialise_linear`).
    """
    with torch.device("meta"):
        module = factory()
    return module.to_empty(device="cpu")


@torch.no_grad()
def initialise_linear(linear: nn.Linear, generator: torch.Generator) -> None:
    """Weight and bias uniform in +-1/sqrt(fan in), the rule of `torch.nn.Linear`."""
    bound = 1 / math.sqrt(linear.in_features)
    linear.weight.uniform_(-bound, bound, generator=generator)
    if linear.bias is not None:
        linear.bias.uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator, fan: FanMode) -> None:
    """Fills every layer: convolutions He-normal for ReLU, batch norms the identity, linear layers as PyTorch does.

    Source: He et al. 2015, arXiv:1502.01852, eq. 10 (fan_in) and eq. 14 (fan_out): std = sqrt(2 / fan).

    Raises:
        TypeError: A layer of another kind holds parameters or buffers; its backbone must override `initialise`.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode=fan, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, nn.Linear):
            initialise_linear(layer, generator)
        elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.reset_parameters()  # its running statistics too; draws nothing
        elif [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]:
            raise TypeError(
                f"no rule initialises layer {name!r} ({type(layer).__name__}) of {type(module).__name__}: "
                "override initialise(generator) in the backbone"
            )
