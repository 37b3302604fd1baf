import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from divfeat.errors import ConfigError, DataError
from divfeat.frames import simplex_etf
from divfeat.losses.hinge import inside_cone
from divfeat.metrics import (
    FIXED_DEGREES,
    ConeAccumulator,
    axis_cosines,
    clamped_share,
    collapse_summary,
    cone_occupancy,
    cone_occupancy_at,
    feature_norms,
)
from tests.metrics.samples import DTYPES, close, cluster_sets, clustered, normal, rotation, simplex, split


def naive_angles(features, labels, frame):
    """Angles by arccos of a cosine for every sample and axis, [N][K]."""
    angles = []
    for row in features.double():
        cosines = [float(row @ frame[:, k] / (row.norm() * frame[:, k].norm())) for k in range(frame.shape[1])]
        angles.append([math.acos(max(-1.0, min(1.0, c))) for c in cosines])
    return angles


@pytest.mark.parametrize("dtype", DTYPES)
def test_against_a_loop(dtype):
    features, labels = clustered([12, 0, 5, 1, 7], dim=6, noise=2.0)
    features = features.to(dtype)
    frame = normal((6, 5), 3) * torch.tensor([1, 2, 0.5, 1, 3])
    tau = torch.tensor([1.2, 0.1, 1.5, math.pi, 0.0], dtype=torch.float64)
    angles = naive_angles(features, labels, frame)
    y = labels.tolist()
    own = [a[k] for a, k in zip(angles, y, strict=True)]
    rest = [sum(math.cos(v) for j, v in enumerate(a) if j != k) / 4 for a, k in zip(angles, y, strict=True)]
    positive, negative = axis_cosines(features, labels, frame)
    close(positive, [math.cos(a) for a in own])
    close(negative, rest)
    expected = sum(a <= float(tau[k]) for a, k in zip(own, y, strict=True)) / len(y)
    assert 0 < expected < 1
    close(cone_occupancy(features, labels, frame, tau), expected)
    close(cone_occupancy(features, labels, frame, 1.2), sum(a <= 1.2 for a in own) / len(y))
    close(
        clamped_share(features, labels, frame, tau),
        sum(0 < float(tau[k]) > a for a, k in zip(own, y, strict=True)) / len(y),
    )
    shares = cone_occupancy_at(features, labels, frame)
    assert tuple(shares) == FIXED_DEGREES == (15, 30, 45, 60, 75)
    for degrees, share in shares.items():
        close(share, sum(math.degrees(a) <= degrees for a in own) / len(y))
    norms = [float(row.double().norm()) for row in features]
    mean, logs = feature_norms(features, labels, 5)
    close(mean, sum(norms) / len(norms))
    for k in range(5):
        members = [math.log(n) for n, label in zip(norms, y, strict=True) if label == k]
        close(logs[k], sum(members) / len(members) if members else math.nan)


def test_cosines_are_scikit_learns():
    features, labels = clustered([5, 7, 4], dim=6)
    frame = normal((6, 3), 3)
    table = torch.from_numpy(cosine_similarity(features.numpy(), frame.T.numpy()))
    positive, negative = axis_cosines(features, labels, frame)
    own = table.gather(1, labels[:, None]).squeeze(1)
    close(positive, own)
    close(negative, (table.sum(dim=1) - own) / 2)


def test_clamped_is_the_hinges_own_mask():
    features, labels = clustered([40, 50, 30, 20], dim=6, noise=2.0)
    frame = simplex(4, 6)
    for tau in (torch.tensor([0.0, 0.9, 1.3, 1.8], dtype=torch.float64), 1.0):
        mask = inside_cone(features, labels, frame, tau)
        assert 0 < mask.sum() < len(mask)
        close(clamped_share(features, labels, frame, tau), mask.double().mean())


def test_edges_of_the_cone():
    """Cosines of exactly 1, 0 and -1: the cone is closed, the hinge's mask is strict and empty at tau = 0."""
    frame = torch.eye(2, dtype=torch.float64)
    labels = torch.tensor([0])
    square = torch.tensor([[0.0, 3.0]], dtype=torch.float64)
    on_axis = 7 * frame[:, :1].T
    assert clamped_share(on_axis, labels, frame, 0.0) == 0
    assert clamped_share(on_axis, labels, frame, 1e-3) == 1
    assert cone_occupancy(on_axis, labels, frame, 0.0) == 1
    assert cone_occupancy(-on_axis, labels, frame, math.pi) == 1
    assert clamped_share(-on_axis, labels, frame, math.pi) == 0
    assert cone_occupancy(square, labels, frame, 1.57) == 0
    assert cone_occupancy(square, labels, frame, 1.58) == 1


def test_rounding_on_the_axis_decides_nothing():
    """Cosines of collinear vectors round to either side of 1 and -1."""
    frame = normal((5, 200), 1)
    labels = torch.arange(200)
    assert cone_occupancy(-3 * frame.T, labels, frame, math.pi) == 1
    assert clamped_share(3 * frame.T, labels, frame, 0.0) == 0
    assert clamped_share(3 * frame.T, labels, frame, 1e-6) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_at_full_collapse_a_cone_of_width_zero_is_full(classes, dtype):
    frame = simplex_etf(classes, classes + 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    labels = torch.arange(20 * classes) % classes
    features = torch.linspace(0.3, 300, len(labels), dtype=dtype)[:, None] * frame.T[labels]
    assert cone_occupancy(features, labels, frame, 0.0) == 1
    assert collapse_summary(features, labels, frame, torch.zeros(classes))["cone/occupancy"] == 1


def test_a_zero_feature_lies_in_no_cone():
    features, labels = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    frame = simplex(3, 4)
    assert axis_cosines(features, labels, frame)[0].tolist() == [0, 0, 0]
    assert cone_occupancy(features, labels, frame, math.pi) == 0
    assert clamped_share(features, labels, frame, 3.0) == 0
    assert feature_norms(features, labels, 3)[1].isfinite().all()


def test_collapse_onto_the_simplex():
    frame = simplex(7, 6)
    labels = torch.arange(7).repeat(4)
    positive, negative = axis_cosines((5 * frame.T[labels]).float(), labels, frame)
    close(positive, torch.ones(28), 1e-6)
    close(negative, torch.full((28,), -1 / 6), 1e-6)


@given(cluster_sets(), st.integers(0, 99), st.floats(1e-3, 1e4), st.floats(0.05, 3.1))
@settings(max_examples=30, deadline=None)
def test_free_of_rotation_scale_and_order_and_grows_with_tau(data, seed, scale, tau):
    features, labels, k = data
    dim = features.shape[1]
    frame, turn = normal((dim, k), seed), rotation(dim, seed + 1)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    moved = scale * (features @ turn)[order]
    for before, after in zip(
        axis_cosines(features, labels, frame), axis_cosines(moved, labels[order], turn.T @ frame * 2), strict=True
    ):
        close(after, before[order])
    share = cone_occupancy(features, labels, frame, tau)
    margin = float((axis_cosines(features, labels, frame)[0] - math.cos(tau)).abs().min())
    if margin > 1e-9:
        close(cone_occupancy(moved, labels[order], turn.T @ frame, tau), share, 1e-12)
        close(clamped_share(features, labels, frame, tau), share, 1e-12)
    assert share <= cone_occupancy(features, labels, frame, min(tau + 0.3, math.pi))


@given(cluster_sets(smallest=0).filter(lambda s: len(s[1]) > 0), st.integers(1, 6), st.integers(0, 7))
@settings(max_examples=20, deadline=None)
def test_stream_and_merge_equal_one_shot(data, pieces, cut):
    features, labels, k = data
    frame = normal((features.shape[1], k), 5)
    tau = torch.linspace(0, 1.6, k)
    accumulators = [ConeAccumulator(frame, tau), ConeAccumulator(frame, tau)]
    for i, part in enumerate(split(features, labels, pieces)):
        accumulators[i > cut].update(*part)
    result = accumulators[0].merge(accumulators[1]).compute()
    positive, negative = axis_cosines(features, labels, frame)
    close(result.positive_cosine, positive.mean())
    close(result.negative_cosine, negative.mean())
    close(result.occupancy, cone_occupancy(features, labels, frame, tau))
    close(result.clamped, clamped_share(features, labels, frame, tau))
    for degrees, share in cone_occupancy_at(features, labels, frame).items():
        close(result.occupancy_at[degrees], share)
    norm, logs = feature_norms(features, labels, k)
    close(result.norm, norm)
    close(result.by_class["log_norm"], logs)
    close(result.log_norm, logs.nanmean())
    present = labels.bincount(minlength=k) > 0
    assert result.absent == int((~present).sum())
    for values in result.by_class.values():
        assert values.isnan().equal(~present)
    for c in present.nonzero().flatten().tolist():
        close(result.by_class["positive_cosine"][c], positive[labels == c].mean())
        close(result.by_class["occupancy"][c], cone_occupancy(features[labels == c], labels[labels == c], frame, tau))


def test_leading_dimensions_stack_configurations():
    labels = torch.tensor([0, 1, 2, 2, 1])
    features, frames = normal((3, 5, 4), 1), normal((3, 4, 3), 2)
    tau = torch.tensor([[0.5, 1.0, 1.5], [1.5, 0.0, 1.2], [2.0, 2.0, 2.0]])
    accumulator = ConeAccumulator(frames, tau)
    for part in split(features, labels, 2):
        accumulator.update(*part)
    stacked = accumulator.compute()
    for i in range(3):
        close(cone_occupancy(features, labels, frames, tau)[i], cone_occupancy(features[i], labels, frames[i], tau[i]))
        close(clamped_share(features, labels, frames, tau)[i], clamped_share(features[i], labels, frames[i], tau[i]))
        close(cone_occupancy_at(features, labels, frames)[60][i], cone_occupancy_at(features[i], labels, frames[i])[60])
        close(stacked.occupancy[i], cone_occupancy(features[i], labels, frames[i], tau[i]))
        close(stacked.by_class["norm"][i, 2], features[i, 2:4].norm(dim=-1).mean())


def test_without_thresholds():
    features, labels = clustered([4, 4], dim=3)
    accumulator = ConeAccumulator(normal((3, 2), 1))
    accumulator.update(features, labels)
    result = accumulator.compute()
    assert result.occupancy is None
    assert result.clamped is None
    assert "occupancy" not in result.by_class


@pytest.mark.parametrize("tau", [-0.1, 3.2, math.nan, torch.tensor([0.1, 40.0]), torch.zeros(3)])
def test_thresholds_out_of_range(tau):
    features, labels = clustered([4, 4], dim=3)
    for call in (cone_occupancy, clamped_share):
        with pytest.raises(ConfigError, match="tau"):
            call(features, labels, torch.eye(3)[:, :2], tau)
    with pytest.raises(ConfigError, match="tau"):
        ConeAccumulator(torch.eye(3)[:, :2], tau)


def test_input_that_does_not_fit():
    features, labels = clustered([4, 4], dim=3)
    frame = torch.eye(3)[:, :2]
    with pytest.raises(DataError, match=r"span 0\.\.2"):
        axis_cosines(features, labels * 2, frame)
    with pytest.raises(DataError, match="D = 3"):
        axis_cosines(features, labels, frame.T)
    with pytest.raises(DataError, match="no samples"):
        cone_occupancy(features[:0], labels[:0], frame, 1.0)
    with pytest.raises(DataError, match="no sample"):
        ConeAccumulator(frame).compute()
    with pytest.raises(DataError, match="different frames or thresholds"):
        ConeAccumulator(frame, 1.0).merge(ConeAccumulator(frame, 1.1))
    with pytest.raises(DataError, match="different frames or thresholds"):
        ConeAccumulator(frame, 1.0).merge(ConeAccumulator(frame))
