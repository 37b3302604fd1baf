"""Features of an image set before and after the projector, extracted in evaluation mode by all ranks together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from divfeat.data.images import ImageSet
from divfeat.models import with_channels_last
from divfeat.pretrain import Learner

#: Images that pass the backbone at a time on a CPU: their activations stay in its cache, which 512 images' do not (1.2 to 1.8
#: times as fast). What follows keeps the larger batch, upon which the last bits of a matrix product can depend.
_CPU_IMAGES = 128


@dataclass(frozen=True)
class FeatureSet:
    """Features and labels of N images, on the extractor's device.

    Attributes:
        before: float32 [N, F], the backbone's pooled output.
        after: float32 [N, D], after the projector (the same tensor where there is none).
        logits: float32 [N, K] of the trained classifier.
        fine: int64 [N].
        coarse: int64 [N] or None.
    """

    before: Tensor
    after: Tensor
    logits: Tensor
    fine: Tensor
    coarse: Tensor | None

    def labels(self, level: str) -> Tensor:
        """int64 [N] labels of `level`."""
        labels = self.coarse if level == "coarse" else self.fine
        assert labels is not None  # checked when the data were prepared
        return labels


@torch.inference_mode()
def extract(learner: Learner, images: ImageSet, *, batch_size: int = 512, channels_last: bool = True) -> FeatureSet:
    """Features of `images` in their order, float32, no augmentation, nothing dropped.

    In a process group every rank takes a contiguous share and all ranks return the whole.
    """
    device = next(learner.parameters()).device
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    rank = dist.get_rank() if world > 1 else 0
    was_training = learner.training
    learner.eval()
    bounds = [round(i * len(images) / world) for i in range(world + 1)]
    columns: dict[str, list[Tensor]] = {"before": [], "after": [], "logits": []}
    # A rank without images passes an empty batch, whose shapes the gathering needs.
    for start in range(bounds[rank], bounds[rank + 1], batch_size) or [bounds[rank]]:
        stop = min(start + batch_size, bounds[rank + 1])
        batch = torch.tensor(images.images[start:stop]).to(device)
        if channels_last:
            batch = with_channels_last(batch)
        extractor = learner.extractor
        parts = batch.split(_CPU_IMAGES) if device.type == "cpu" else (batch,)
        taps = extractor.project(torch.cat([extractor.pooled(part) for part in parts]))
        columns["before"].append(taps.before.float())
        if taps.after is not taps.before:
            columns["after"].append(taps.after.float())
        columns["logits"].append(learner.head(taps).logits.float())
    found = {name: _gather(torch.cat(parts), bounds, rank, world) for name, parts in columns.items() if parts}
    learner.train(was_training)
    fine = torch.tensor(images.fine, device=device)
    coarse = None if images.coarse is None else torch.tensor(images.coarse, device=device)
    return FeatureSet(found["before"], found.get("after", found["before"]), found["logits"], fine, coarse)


def _gather(share: Tensor, bounds: list[int], rank: int, world: int) -> Tensor:
    if world == 1:
        return share
    whole = share.new_zeros(bounds[-1], *share.shape[1:])
    whole[bounds[rank] : bounds[rank + 1]] = share
    dist.all_reduce(whole)
    return whole
