"""Methods by name: a head (axes) and an objective (loss), the one place that knows which combination a name means."""

from divfeat.methods.building import BuiltMethod, build_method
from divfeat.methods.checks import OF_CONES
from divfeat.methods.resolving import (
    canonical,
    epochs_of,
    first_stage,
    keeps_frozen_axes,
    parts_of,
    spelled_out,
    train_of,
)
from divfeat.methods.table import METHODS, Method, method_named, with_second
from divfeat.parts import OFF, Parts

__all__ = [
    "METHODS",
    "OFF",
    "OF_CONES",
    "BuiltMethod",
    "Method",
    "Parts",
    "build_method",
    "canonical",
    "epochs_of",
    "first_stage",
    "keeps_frozen_axes",
    "method_named",
    "parts_of",
    "spelled_out",
    "train_of",
    "with_second",
]
