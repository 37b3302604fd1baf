"""ResNet-32 for CIFAR trained the way the well-known scripts do it: the peer of end-to-end benchmarks, in plain PyTorch.

Network of He et al. 2016, section 4.2, with option A shortcuts; SGD with momentum 0.9 and weight decay 1e-4; meters that read
the loss and the accuracy back after every step, as those scripts do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

LR, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 1e-4


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut that pads with zeros where the width changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.more = stride, (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W]."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.more:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))
        return F.relu(out + x)


class ResNet32(nn.Module):
    """6 n + 2 layers with n = 5: three stages of 16, 32 and 64 channels."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks, width = [], 16
        for after, first in ((16, 1), (32, 2), (64, 2)):
            for number in range(5):
                blocks.append(Block(width, after, first if number == 0 else 1))
                width = after
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 32, 32] to [B, K]."""
        return self.linear(self.blocks(F.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


class Meter:
    """A running mean."""

    def __init__(self) -> None:
        self.sum, self.count = 0.0, 0

    def update(self, value: float, count: int) -> None:
        """Of a batch of `count`."""
        self.sum += value * count
        self.count += count


def train_epochs(batches: DataLoader, classes: int, epochs: int, device: torch.device) -> float:
    """Train from scratch; returns the training accuracy of the last epoch."""
    model = ResNet32(classes).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    model.train()
    for _ in range(epochs):
        losses, correct = Meter(), Meter()
        for images, labels in batches:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            logits = model(images)
            loss = criterion(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(labels))
            correct.update((logits.argmax(1) == labels).float().mean().item(), len(labels))
        schedule.step()
    return correct.sum / correct.count
