import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat.errors import DataError
from divfeat.metrics import _inputs, cdnv, class_geometry, numerical_rank
from tests.metrics.samples import DTYPES, close, cluster_sets, clustered, normal, rotation


def naive(features, labels, frame):
    """One class and one sample at a time."""
    rows = [features[labels == k].double().numpy() for k in range(frame.shape[1])]
    axes = frame.double().numpy()
    found = {name: [] for name in ("positive_cosine", "feature_norm", "cdnv", "numerical_rank")}
    for k, own in enumerate(rows):
        axis = axes[:, k] / np.linalg.norm(axes[:, k])
        norms = [np.linalg.norm(row) for row in own]
        cosines = [float(row @ axis) / norm for row, norm in zip(own, norms, strict=True)]
        found["positive_cosine"].append(sum(cosines) / len(own) if len(own) else math.nan)
        found["feature_norm"].append(sum(norms) / len(own) if len(own) else math.nan)
        if len(own) < 2:
            found["cdnv"].append(math.nan)
            found["numerical_rank"].append(math.nan)
            continue
        centre = own.mean(axis=0)
        variance = sum(float((row - centre) @ (row - centre)) for row in own) / len(own)
        others = [other.mean(axis=0) for j, other in enumerate(rows) if j != k and len(other) > 1]
        inverse = [1 / float((centre - other) @ (centre - other)) for other in others]
        found["cdnv"].append(variance * sum(inverse) / len(inverse) if inverse else math.nan)
        singular = np.linalg.svd(own, compute_uv=False)
        found["numerical_rank"].append(float(singular.sum() ** 2 / (singular**2).sum()))
    return found


@pytest.mark.parametrize("chunk", [2**24, 5 * 6])
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_a_loop_over_classes(monkeypatch, dtype, chunk):
    """An absent class and one of a single sample among them."""
    monkeypatch.setattr(_inputs, "CHUNK_ELEMENTS", chunk)
    features, labels = clustered([12, 0, 5, 1, 7], dim=6, noise=1.5)
    features, frame = features.to(dtype), normal((6, 5), 3)
    found, expected = class_geometry(features, labels, frame), naive(features, labels, frame)
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == torch.float64
        torch.testing.assert_close(
            found[name], torch.tensor(values, dtype=torch.float64), rtol=1e-9, atol=0, equal_nan=True
        )
    assert (
        found["cdnv"].isnan().tolist() == found["numerical_rank"].isnan().tolist() == [False, True, False, True, False]
    )
    assert found["feature_norm"].isnan().tolist() == [False, True, False, False, False]


@given(cluster_sets(smallest=0).filter(lambda s: int((s[1].bincount(minlength=1) > 1).sum()) > 1))
@settings(max_examples=30, deadline=None)
def test_the_mean_over_classes_is_the_measure_of_all(data):
    features, labels, classes = data
    found = class_geometry(features, labels, normal((features.shape[1], classes), 1))
    close(found["cdnv"].nanmean(), cdnv(features, labels, classes), 1e-10)
    close(found["numerical_rank"].nanmean(), numerical_rank(features, labels, classes), 1e-10)


@given(cluster_sets(), st.integers(0, 99), st.sampled_from([1e-3, 7e4]))
@settings(max_examples=30, deadline=None)
def test_free_of_rotation_and_scale(data, seed, scale):
    features, labels, classes = data
    frame, turn = normal((features.shape[1], classes), 1), rotation(features.shape[1], seed)
    found, moved = (
        class_geometry(features, labels, frame),
        class_geometry(scale * features @ turn, labels, turn.T @ frame),
    )
    moved["feature_norm"] /= scale
    for name, values in found.items():
        torch.testing.assert_close(moved[name], values, rtol=1e-7, atol=1e-9)


def test_one_class_with_a_spread_has_no_other_to_be_compared_with():
    features, labels = clustered([6, 1, 1], dim=4)
    found = class_geometry(features, labels, normal((4, 3), 1))
    assert found["cdnv"].isnan().all() and found["numerical_rank"].isnan().tolist() == [False, True, True]


def test_a_collapsed_class():
    features = torch.eye(3, dtype=torch.float64).repeat_interleave(4, 0) * 5
    found = class_geometry(features, torch.arange(3).repeat_interleave(4), torch.eye(3))
    assert found["cdnv"].tolist() == [0, 0, 0] and found["feature_norm"].tolist() == [5, 5, 5]
    close(found["numerical_rank"], torch.ones(3, dtype=torch.float64), 1e-12)
    close(found["positive_cosine"], torch.ones(3, dtype=torch.float64), 1e-12)


def test_wrong_shapes_are_refused():
    with pytest.raises(DataError, match="the frame has shape"):
        class_geometry(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), torch.zeros(2, 2))
    with pytest.raises(DataError, match="no samples"):
        class_geometry(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), torch.zeros(3, 2))
