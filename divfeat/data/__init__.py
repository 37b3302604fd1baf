"""Data: image sources, splits and long tails, batches, augmentation."""

from divfeat.config import Policy
from divfeat.data.augment import Augment
from divfeat.data.batches import Batch, Batches, BatchStream
from divfeat.data.images import ImageSet, Level
from divfeat.data.mix import Mix, Targets
from divfeat.data.sampling import class_shares, draws
from divfeat.data.sources import load_source
from divfeat.data.splits import (
    LongTailSplit,
    Split,
    holdout,
    index_hash,
    long_tail_counts,
    long_tail_indices,
    long_tail_split,
    stratified_subset,
)

__all__ = [
    "Augment",
    "Batch",
    "BatchStream",
    "Batches",
    "ImageSet",
    "Level",
    "LongTailSplit",
    "Mix",
    "Policy",
    "Split",
    "Targets",
    "class_shares",
    "draws",
    "holdout",
    "index_hash",
    "load_source",
    "long_tail_counts",
    "long_tail_indices",
    "long_tail_split",
    "stratified_subset",
]
