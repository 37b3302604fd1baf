"""Linear evaluation of frozen features: L2-regularised multinomial logistic regression (Kornblith et al. 2019)."""

from divfeat.probe.linear import linear_probe
from divfeat.probe.result import Fit, ProbeResult, Score
from divfeat.probe.search import PROTOCOL_STRENGTHS

__all__ = ["PROTOCOL_STRENGTHS", "Fit", "ProbeResult", "Score", "linear_probe"]
