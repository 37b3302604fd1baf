"""Second stages by name: what may follow the training of a network, one idea a file.

A second stage is a part of a method (`MethodConfig.second`): any first stage goes with any second where that has a meaning.
"""

from divfeat.second.crm import LowestRisk
from divfeat.second.crt import ClassifierRetraining
from divfeat.second.lws import WeightScaling
from divfeat.second.m2m import MajorToMinor
from divfeat.second.ncm import NearestMean
from divfeat.second.oltr import OpenLongTail
from divfeat.second.post_hoc import PostHocAdjustment
from divfeat.second.stage import FirstStage, SecondStage
from divfeat.second.tau_norm import TauNormalisation

#: Names as `divfeat.config.Second` has them, without `none`.
SECONDS: dict[str, SecondStage] = {
    "crt": ClassifierRetraining(),
    "lws": WeightScaling(),
    "tau_norm": TauNormalisation(),
    "ncm": NearestMean(),
    "post_hoc": PostHocAdjustment(),
    "m2m": MajorToMinor(),
    "oltr": OpenLongTail(),
    "crm": LowestRisk(),
}

__all__ = ["SECONDS", "FirstStage", "SecondStage"]
