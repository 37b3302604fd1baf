"""Where the numbers of a method's parts are searched: one range a part, whichever method has it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """What is searched in place of a part's value: the value, or what it lacks to 1.

    Attributes:
        low: Of the searched number.
        high: Of the searched number.
        log: Whether it is searched on a logarithmic scale.
        below_one: Whether 1 - value is searched: 0.99 and 0.999 are as far apart as 0.9 and 0.99.
    """

    low: float
    high: float
    log: bool = False
    below_one: bool = False

    def parameter(self, part: str) -> str:
        """What the searched number of `part` is called."""
        return f"1-{part}" if self.below_one else part

    def turned(self, number: float) -> float:
        """A part's value as the searched number, and the other way round."""
        return 1 - number if self.below_one else number

    def holds(self, value: float | None) -> bool:
        """Whether a part's value can be found by the search."""
        return value is not None and self.low <= self.turned(value) <= self.high

    def __str__(self) -> str:
        """Of the value, as people read it: `0.1 to 5, log scale`."""
        low, high = sorted((self.turned(self.low), self.turned(self.high)))
        scale = ", log scale of 1 - it" if self.below_one else ", log scale"
        return f"{low:g} to {high:g}{scale if self.log else ''}"


#: Part -> range. Where no sweep of the paper is named, the range is our choice around the published value.
RANGES: dict[str, Range] = {
    # No paper closes cones: none to almost half of the training.
    "closed_first": Range(0.0, 0.45),
    "closed_last": Range(0.0, 0.45),
    # 0.1 (Szegedy et al. 2016; HingeCE, 4.1).
    "label_smoothing": Range(0.01, 0.4, log=True),
    # 1 is the consistent strength (Menon et al. 2021, theorem 1).
    "logit_adjustment": Range(0.25, 3.0),
    # 30 (Cao et al. 2019).
    "scale": Range(8.0, 64.0, log=True),
    # 0.5 (Cao et al. 2019, largest margin).
    "margin": Range(0.05, 1.0),
    # 1, 2, 3 and 5 on their sets (Liang and Davis 2023).
    "gamma": Range(0.5, 8.0, log=True),
    # 0.4 and 0.5 (Liang and Davis 2023).
    "cosine": Range(0.05, 0.95),
    # 4 to 30 (Bertinetto et al. 2020, soft labels).
    "soft_labels": Range(2.0, 40.0, log=True),
    # 0.1 to 0.6 (Bertinetto et al. 2020, HXE).
    "hierarchical_ce": Range(0.02, 1.0, log=True),
    # Their sweep ends at 5 (Lin et al. 2018, table 1b).
    "focal": Range(0.1, 5.0, log=True),
    # 0.9, 0.99, 0.999, 0.9999 (Cui et al. 2019), and one step further.
    "class_balanced": Range(1e-5, 0.1, log=True, below_one=True),
    # 160 of 200 epochs (Cao et al. 2019).
    "deferred": Range(0.4, 0.95),
    # 1 on CIFAR, 0.1 to 0.4 on ImageNet (Zhang et al. 2018).
    "mixup": Range(0.1, 2.0, log=True),
    # 1 (Yun et al. 2019).
    "cutmix": Range(0.1, 2.0, log=True),
    # 0.2 (Kang et al. 2020, cRT and LWS), 0.1 (Liu et al. 2019, OLTR).
    "second_lr": Range(0.01, 1.0, log=True),
    # 0 to 2 in steps of 0.1 (Kang et al. 2020, the sweep of their script); 0 is CE without its bias.
    "exponent": Range(0.1, 2.0),
    # 1 is the consistent strength (Menon et al. 2021, section 4.2).
    "prior_strength": Range(0.25, 3.0),
    # 0.9, 0.99, 0.999 (Kim et al. 2020), and one step to either side: small sets accept hardly a seed at 0.999.
    "m2m_beta": Range(1e-4, 0.3, log=True, below_one=True),
    # 0.9 and 0.99 (Kim et al. 2020), and lower.
    "m2m_gamma": Range(0.3, 0.99),
    # 0.01, 0.1, 0.5 (Kim et al. 2020).
    "m2m_lambda": Range(0.01, 1.0, log=True),
    # 0.01 (Kang et al. 2020, their OLTR).
    "centroid_loss": Range(1e-3, 0.1, log=True),
}
