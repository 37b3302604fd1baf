import math

import pytest
import torch

from divfeat.errors import DataError
from divfeat.hierarchy import Hierarchy
from divfeat.metrics import (
    _inputs,
    axis_cosines,
    cdnv,
    clamped_share,
    collapse_summary,
    cone_occupancy,
    cone_occupancy_at,
    feature_norms,
    nc1,
    nc2,
    nc3,
    nc4,
    numerical_rank,
)
from tests.metrics.samples import close, clustered, normal, simplex

ALWAYS = {
    "collapse/nc1",
    "collapse/nc1_balanced",
    "collapse/nc2",
    "collapse/cdnv",
    "collapse/numerical_rank",
    "collapse/numerical_rank_centred",
    "collapse/absent_classes",
    "collapse/singleton_classes",
    "feature/norm",
    "feature/log_norm",
}
WITH_FRAME = {"collapse/nc3", "collapse/nc4", "cone/positive_cosine", "cone/negative_cosine"} | {
    f"cone/occupancy_{degrees}deg" for degrees in (15, 30, 45, 60, 75)
}
WITH_TAU = {"cone/occupancy", "cone/clamped"}


@pytest.mark.parametrize("chunk", [2**24, 5 * 6])
def test_every_entry_is_its_one_shot_function(monkeypatch, chunk):
    """Also when the features are lifted five rows at a time."""
    monkeypatch.setattr(_inputs, "CHUNK_ELEMENTS", chunk)
    features, labels = clustered([12, 0, 5, 1, 7], dim=6, noise=1.5)
    features = features.float()
    frame, tau = normal((6, 5), 3), torch.tensor([1.2, 0.1, 1.5, 2.0, 0.0])
    bias = torch.tensor([3.0, -1.0, 0.0, 2.0, -4.0])
    values = collapse_summary(features, labels, frame, tau, bias=bias)
    assert nc4(features, labels, frame, bias) != nc4(features, labels, frame)
    positive, negative = axis_cosines(features, labels, frame)
    norm, logs = feature_norms(features, labels, 5)
    expected = {
        "collapse/nc1": nc1(features, labels),
        "collapse/nc1_balanced": nc1(features, labels, weighting="balanced"),
        "collapse/nc2": nc2(features, labels),
        "collapse/nc3": nc3(features, labels, frame),
        "collapse/nc4": nc4(features, labels, frame, bias),
        "collapse/cdnv": cdnv(features, labels),
        "collapse/numerical_rank": numerical_rank(features, labels),
        "collapse/numerical_rank_centred": numerical_rank(features, labels, centred=True),
        "collapse/absent_classes": 1,
        "collapse/singleton_classes": 1,
        "cone/positive_cosine": positive.mean(),
        "cone/negative_cosine": negative.mean(),
        "cone/occupancy": cone_occupancy(features, labels, frame, tau),
        "cone/clamped": clamped_share(features, labels, frame, tau),
        "feature/norm": norm,
        "feature/log_norm": logs.nanmean(),
    }
    expected |= {f"cone/occupancy_{d}deg": share for d, share in cone_occupancy_at(features, labels, frame).items()}
    assert set(values) == set(expected) == ALWAYS | WITH_FRAME | WITH_TAU
    for name, value in expected.items():
        assert type(values[name]) is float
        close(values[name], value, 1e-10)


def test_entries_without_a_frame_or_thresholds():
    features, labels = clustered([12, 5, 7], dim=6)
    assert set(collapse_summary(features, labels)) == ALWAYS
    assert set(collapse_summary(features, labels, None, 1.0)) == ALWAYS
    assert set(collapse_summary(features, labels, simplex(3, 6))) == ALWAYS | WITH_FRAME
    assert collapse_summary(features, labels, num_classes=5)["collapse/absent_classes"] == 2


def test_full_collapse_has_numbers():
    frame = simplex(10, 12)
    labels = torch.arange(10).repeat(5)
    values = collapse_summary((4 * frame.T[labels]).float(), labels, frame, 0.5)
    exact = {"nc1": 0, "nc1_balanced": 0, "nc2": 0, "nc3": 0, "nc4": 1, "cdnv": 0, "numerical_rank": 1}
    for name, value in exact.items():
        close(values[f"collapse/{name}"], value, 1e-6)
    assert values["cone/occupancy"] == values["cone/clamped"] == values["cone/occupancy_15deg"] == 1
    assert math.isnan(values.pop("collapse/numerical_rank_centred"))  # 0/0, methods.md 1.5
    assert all(math.isfinite(value) for value in values.values())


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, 0.1])
def test_a_broken_run_gives_nan_not_an_error(value):
    features = torch.full((12, 4), value)
    values = collapse_summary(features, torch.arange(3).repeat(4), simplex(3, 4), 0.5)
    assert set(values) == ALWAYS | WITH_FRAME | WITH_TAU
    for name in ("nc1", "nc1_balanced", "nc2", "nc3", "cdnv"):
        assert math.isnan(values[f"collapse/{name}"])


def test_few_samples_give_nan_where_undefined():
    values = collapse_summary(torch.eye(3), torch.arange(3))
    assert math.isnan(values["collapse/nc1"])
    assert math.isnan(values["collapse/numerical_rank"])
    assert values["collapse/singleton_classes"] == 3
    close(values["collapse/nc2"], 0.0)


def test_a_tree_says_how_many_classes_there_are():
    tree = Hierarchy.from_nested({"a": ["x", "y"], "b": ["z", "w"]})
    found = collapse_summary(normal((12, 4), 0), torch.arange(12) % 3, hierarchy=tree)  # none of w
    assert found["collapse/absent_classes"] == 1 and -1 <= found["collapse/cophenetic"] <= 1


def test_input_that_does_not_fit():
    features, labels = clustered([12, 5, 7], dim=6)
    with pytest.raises(DataError, match="no samples"):
        collapse_summary(features[:0], labels[:0], simplex(3, 6))
    with pytest.raises(DataError, match="K = 4"):
        collapse_summary(features, labels, simplex(3, 6), num_classes=4)
    with pytest.raises(DataError, match=r"span 0\.\.2"):
        collapse_summary(features, labels, num_classes=2)
