"""Whether a study's recipe reaches what was published for it: a method that beats a weak CE has shown nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from divfeat.report.arrays import mean_of
from divfeat.report.summary import Runs
from divfeat.study_config import ProtocolConfig, plain_of

#: Points by which CE may stay under its published accuracy before verdicts on its recipe are withheld.
SLACK = 2.0


def short_of_published(rules: ProtocolConfig, confirmed: Sequence[Runs]) -> str:
    """Why no verdict can be given on a recipe whose CE falls short of its published accuracy; "" where it does not.

    Args:
        rules: With `published_ce`, in percent; None asks nothing.
        confirmed: Runs on test; CE's are those of `ce_no_projector`, else of `ce`.
    """
    if rules.published_ce is None:
        return ""
    published = f"the {rules.published_ce:g} % published for CE with this recipe (protocol.published_ce)"
    name = plain_of([runs.name for runs in confirmed])
    if name is None:
        return f"neither ce_no_projector nor ce was run, so nothing says whether CE reaches {published}"
    reached = mean_of(next(runs for runs in confirmed if runs.name == name).points("test/accuracy"))
    if math.isnan(reached):
        return f"no run of {name} has finished, so nothing says whether it reaches {published}"
    if reached >= rules.published_ce - SLACK:
        return ""
    return (
        f"with {reached:.2f} % on test {name} lies more than {SLACK:g} points under {published}, and a difference to a recipe "
        "that falls short shows nothing"
    )
