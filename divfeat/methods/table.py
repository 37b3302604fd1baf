"""The names of methods, and what each fixes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from divfeat.config import Second
from divfeat.errors import ConfigError, unknown
from divfeat.parts import OFF, Parts
from divfeat.second import SECONDS

#: Settings of the second stages, each read by some of them.
SECOND_SETTINGS = sorted({name for stage in SECONDS.values() for name in stage.settings})


def with_second(parts: Parts, second: Second) -> Parts:
    """`parts` followed by a second stage at its published settings, or by none."""
    settings = {name: getattr(OFF, name) for name in SECOND_SETTINGS}
    return replace(parts, second=second, **settings | ({} if second == "none" else dict(SECONDS[second].settings)))


@dataclass(frozen=True)
class Method:
    """What a method's name fixes.

    Attributes:
        summary: One line, with its source.
        projector: Whether a linear layer follows the backbone (needed to reach an ETF from pooled ReLU features).
        frame: Whether the class axes are frozen, by default a simplex ETF; else the classifier is learned.
        hinge: Whether thresholds apply.
        tree: Whether it belongs to tables over a tree of the classes.
        parts: Values of the parts where the configuration gives none.
        searched: The parts whose values are the method's own numbers: they are searched where it stands as a baseline
            (`protocol.tune`), in their ranges (divfeat.ranges), the published values above first.
    """

    summary: str
    projector: bool = True
    frame: bool = False
    hinge: bool = False
    parts: Parts = OFF
    searched: tuple[str, ...] = ()
    tree: bool = False

    @property
    def structure(self) -> tuple[bool, bool, bool]:
        """What no part can change, but for a neck that stands for the projector."""
        return self.projector or self.parts.neck != "linear", self.frame, self.hinge


_LDAM = Parts(scale=30.0, margin=0.5)
_ADJUSTED = Parts(logit_adjustment=1.0)
_TYPE2 = Parts(neck="transformation")
_HAF = Parts(neck="transformation", frame="hierarchy", gamma=2.0)

#: Of two names for one combination the first is the canonical one.
METHODS: dict[str, Method] = {
    "ce": Method("cross-entropy, learned classifier, with projector"),
    "ce_no_projector": Method("cross-entropy, learned classifier, the plain network", projector=False),
    "ce_smooth": Method(
        "cross-entropy with label smoothing 0.1 (HingeCE, 4.1)",
        parts=Parts(label_smoothing=0.1),
        searched=("label_smoothing",),
    ),
    "ce_etf": Method("cross-entropy with a frozen simplex ETF (HingeCE, 'CE+ETF')", frame=True),
    "ce_etf_smooth": Method(
        "CE+ETF with label smoothing 0.1 (HingeCE, 'Smooth+ETF')",
        frame=True,
        parts=Parts(label_smoothing=0.1),
        searched=("label_smoothing",),
    ),
    "hinge_ce": Method(
        "CE over hinged logits of a frozen simplex ETF (HingeCE, equation 7)",
        frame=True,
        hinge=True,
    ),
    "focal": Method(
        "focal loss over a softmax, gamma 1 (Lin et al. 2018, as LDAM's code has it)",
        parts=Parts(focal=1.0),
        searched=("focal",),
    ),
    "mixup": Method(
        "CE on images mixed in pairs, alpha 1 (Zhang et al. 2018)",
        parts=Parts(mixup=1.0),
        searched=("mixup",),
    ),
    "resampling": Method(
        "CE on batches in which every class is drawn alike (class-balanced sampling)",
        parts=Parts(sampling="balanced"),
    ),
    "class_balanced": Method(
        "CE with class-balanced weights, beta 0.9999 (Cui et al. 2019)",
        parts=Parts(class_balanced=0.9999),
        searched=("class_balanced",),
    ),
    "ldam": Method(
        "margins by class count on a cosine classifier (Cao et al. 2019)",
        parts=_LDAM,
        searched=("margin", "scale"),
    ),
    "ldam_drw": Method(
        "LDAM, class-balanced weights after 0.8 of the epochs (Cao et al. 2019)",
        parts=replace(_LDAM, class_balanced=0.9999, deferred=0.8),
        searched=("margin", "scale", "class_balanced", "deferred"),
    ),
    "logit_adjustment": Method(
        "CE of v + log prior (Menon et al. 2021, the loss)",
        parts=_ADJUSTED,
        searched=("logit_adjustment",),
    ),
    "balanced_softmax": Method(
        "the same loss by its other name (Ren et al. 2020)",
        parts=_ADJUSTED,
        searched=("logit_adjustment",),
    ),
    "etf_dr": Method(
        "frozen simplex ETF with dot regression on batch-normalised features of length 1, mixup (Yang et al. 2022)",
        frame=True,
        parts=Parts(loss="dot_regression", scale=1.0, feature_norm=True, mixup=1.0),
        searched=("mixup",),
    ),
    "ce_etf_la": Method(
        "CE+ETF with logit adjustment: hinge_la without cones",
        frame=True,
        parts=_ADJUSTED,
        searched=("logit_adjustment",),
    ),
    "hinge_la": Method(
        "HingeCE with logit adjustment after the hinge",
        frame=True,
        hinge=True,
        parts=_ADJUSTED,
        searched=("logit_adjustment",),
    ),
    "crt": Method(
        "CE, then a new classifier on frozen features, classes sampled alike (Kang et al. 2020, cRT)",
        parts=with_second(OFF, "crt"),
        searched=("second_lr",),
    ),
    "lws": Method(
        "CE, then one factor a class on its logits, learned on frozen features (Kang et al. 2020, LWS)",
        parts=with_second(OFF, "lws"),
        searched=("second_lr",),
    ),
    "tau_norm": Method(
        "CE, then w_k / ||w_k|| without bias (Kang et al. 2020, tau-normalised)",
        parts=with_second(OFF, "tau_norm"),
        searched=("exponent",),
    ),
    "ncm": Method(
        "CE, then the nearest mean of centred features of length 1 (Kang et al. 2020, NCM)",
        parts=with_second(OFF, "ncm"),
    ),
    "post_hoc_la": Method(
        "CE, then v - log prior (Menon et al. 2021, post hoc)",
        parts=with_second(OFF, "post_hoc"),
        searched=("prior_strength",),
    ),
    "m2m": Method(
        "CE, then a second network on images translated from major to minor classes (Kim et al. 2020, M2m)",
        parts=with_second(OFF, "m2m"),
        searched=("m2m_beta", "m2m_gamma", "m2m_lambda"),
    ),
    "oltr": Method(
        "CE, then features enriched from a memory of centroids (Liu et al. 2019, OLTR, without attention)",
        parts=with_second(OFF, "oltr"),
        searched=("second_lr", "centroid_loss"),
    ),
    "ce_type2": Method(
        "cross-entropy on HAFrame's type II network (slides, table 6, row 2)",
        parts=_TYPE2,
        tree=True,
    ),
    "haframe_ce": Method(
        "type II network on a frozen hierarchy-aware frame, without the cosine loss (slides, table 6, row 3)",
        frame=True,
        parts=_HAF,
        searched=("gamma",),
        tree=True,
    ),
    "haframe": Method(
        "type II network on a frozen hierarchy-aware frame with the cosine loss (HAFrame, Liang and Davis 2023)",
        frame=True,
        parts=replace(_HAF, cosine=0.4),
        searched=("gamma", "cosine"),
        tree=True,
    ),
    "hinge_haf": Method(
        "HAFrame with cones around its axes: HingeCE on the hierarchy-aware frame",
        frame=True,
        hinge=True,
        parts=replace(_HAF, cosine=0.4),
        searched=("gamma", "cosine"),
        tree=True,
    ),
    "crm": Method(
        "CE on the plain network, then classes by lowest expected distance (Karthik et al. 2021, CRM)",
        projector=False,
        parts=with_second(OFF, "crm"),
        tree=True,
    ),
    "crm_type2": Method("the same on the type II network", parts=with_second(_TYPE2, "crm"), tree=True),
    "flamingo": Method(
        "a chunk of the features and a classifier for each level, on the plain network (Chang et al. 2021, Flamingo)",
        projector=False,
        parts=Parts(levels="flamingo"),
        tree=True,
    ),
    "flamingo_type2": Method("the same on the type II network", parts=replace(_TYPE2, levels="flamingo"), tree=True),
    "hafeature": Method(
        "classifiers of all levels that agree, on the plain network (Garg et al. 2022, HAFeature)",
        projector=False,
        parts=Parts(levels="hafeature", pair_margin=3.0),
        tree=True,
    ),
    "hafeature_type2": Method(
        "the same on the type II network",
        parts=replace(_TYPE2, levels="hafeature", pair_margin=3.0),
        tree=True,
    ),
    "tree_soft_labels": Method(
        "targets spread over near classes, beta 10 (Bertinetto et al. 2020, soft labels), on the plain network",
        projector=False,
        parts=Parts(soft_labels=10.0),
        searched=("soft_labels",),
        tree=True,
    ),
    "hierarchical_ce": Method(
        "CE along the way to the root, alpha 0.1 (Bertinetto et al. 2020, HXE), on the plain network",
        projector=False,
        parts=Parts(hierarchical_ce=0.1),
        searched=("hierarchical_ce",),
        tree=True,
    ),
}


def method_named(name: str) -> Method:
    """The method called `name`.

    Raises:
        ConfigError: unknown name; lists the known ones.
    """
    if name not in METHODS:
        raise ConfigError(unknown("method", name, METHODS))
    return METHODS[name]
