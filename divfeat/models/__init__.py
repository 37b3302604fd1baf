"""Backbones by name, the FeatureExtractor around them, heads, and batch norm over ranks."""

from divfeat.models.backbone import Backbone
from divfeat.models.batchnorm import convert_batchnorm
from divfeat.models.extractor import FeatureExtractor, Taps, build_extractor
from divfeat.models.heads import CosineHead, FrameHead, Head, LinearHead, Outputs
from divfeat.models.layout import with_channels_last
from divfeat.models.level_heads import FlamingoHead, HierarchyAwareHead
from divfeat.models.necks import HiddenLayer, Transformation
from divfeat.models.registry import BACKBONES
from divfeat.models.weights import load_weights

__all__ = [
    "BACKBONES",
    "Backbone",
    "CosineHead",
    "FeatureExtractor",
    "FlamingoHead",
    "FrameHead",
    "Head",
    "HiddenLayer",
    "HierarchyAwareHead",
    "LinearHead",
    "Outputs",
    "Taps",
    "Transformation",
    "build_extractor",
    "convert_batchnorm",
    "load_weights",
    "with_channels_last",
]
