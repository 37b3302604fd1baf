import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestCentroid

from divfeat.errors import DataError
from divfeat.metrics import (
    ClassStatisticsAccumulator,
    NC4Accumulator,
    cdnv,
    class_statistics,
    nc2,
    nc3,
    nc4,
    nearest_mean_agreement,
)
from tests.metrics.samples import DTYPES, close, cluster_sets, clustered, normal, rotation, simplex, split


def centred_means(features, labels):
    means = [features[labels == k].double().mean(dim=0) for k in sorted(set(labels.tolist()))]
    centre = sum(means) / len(means)
    return [mean - centre for mean in means]


def naive_simplex_gap(left, right):
    k = len(left)
    product = [[float(a @ b) for b in right] for a in left]
    size = math.sqrt(sum(v * v for row in product for v in row))
    gap = 0.0
    for i in range(k):
        for j in range(k):
            target = ((i == j) - 1 / k) / math.sqrt(k - 1)
            gap += (product[i][j] / size - target) ** 2
    return math.sqrt(gap)


def naive_cdnv(features, labels):
    groups = [features[labels == k].double() for k in sorted(set(labels.tolist())) if (labels == k).sum() > 1]
    terms = []
    for i in range(len(groups)):
        for j in range(i + 1, len(groups)):
            means = [g.mean(dim=0) for g in (groups[i], groups[j])]
            spread = sum(
                float(((g - m) ** 2).sum(dim=1).mean()) for g, m in zip((groups[i], groups[j]), means, strict=True)
            )
            terms.append(spread / (2 * float(((means[0] - means[1]) ** 2).sum())))
    return sum(terms) / len(terms)


def naive_nc4(features, labels, weight, bias):
    features = features.double()
    present = sorted(set(labels.tolist()))
    means = {k: features[labels == k].mean(dim=0) for k in present}
    agreed = 0
    for row in features:
        linear = max(present, key=lambda k: float(row @ weight[:, k]) + (0 if bias is None else float(bias[k])))
        nearest = min(present, key=lambda k: float((row - means[k]).norm()))
        agreed += linear == nearest
    return agreed / len(features)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [9, 2])
def test_against_loops(dtype, dim):
    """Absent class 1, singleton class 3; dim 2 is below K - 1."""
    features, labels = clustered([12, 0, 5, 1, 7, 3], dim, noise=1.5)
    features = features.to(dtype)
    frame, bias = normal((dim, 6), 11), normal((6,), 12)
    present = [0, 2, 3, 4, 5]
    means = centred_means(features, labels)
    close(nc2(features, labels, 6), naive_simplex_gap(means, means))
    close(nc3(features, labels, frame), naive_simplex_gap([frame[:, k] for k in present], means))
    close(cdnv(features, labels, 6), naive_cdnv(features, labels))
    for b in (None, bias):
        expected = naive_nc4(features, labels, frame, b)
        close(nc4(features, labels, frame, b), expected)
        assert 0 < expected < 1


def test_nearest_mean_rule_is_scikit_learns():
    features, labels = clustered([12, 9, 5, 7], dim=5, noise=2.0)
    weight = normal((5, 4), 3)
    centroid = NearestCentroid().fit(features.numpy(), labels.numpy()).predict(features.numpy())
    linear = (features @ weight).argmax(dim=1).numpy()
    close(nc4(features, labels, weight), float((centroid == linear).mean()))


def test_agreement_with_the_nearest_mean_against_a_loop():
    source = torch.Generator().manual_seed(5)
    labels = torch.tensor([0, 0, 1, 1, 1, 3, 3, 4]).repeat(5)  # class 2 is absent
    features = torch.randn(40, 3, generator=source) + labels.unsqueeze(1)
    predictions = torch.randint(5, (40,), generator=source)
    agreed = 0
    for u, guess in zip(features.double(), predictions.tolist(), strict=True):
        distances = {k: float((u - features[labels == k].double().mean(0)).norm()) for k in (0, 1, 3, 4)}
        agreed += min(distances, key=distances.get) == guess
    assert 0 < agreed < 40
    close(nearest_mean_agreement(features, labels, predictions), agreed / 40)


def test_nc4_of_the_nearest_mean_rule_itself_is_one():
    """argmin ||h - mu||^2 = argmax <h, mu> - ||mu||^2/2 is a linear rule: weight and bias must both be used."""
    features, labels = clustered([12, 9, 5, 7], dim=3, noise=3.0)
    means = class_statistics(features, labels).means
    assert nc4(features, labels, means.T, -means.square().sum(dim=1) / 2) == 1
    assert nc4(features, labels, means.T) < 1


@pytest.mark.parametrize("dim", [9, 30])
@pytest.mark.parametrize("absent", [0, 3])
def test_full_collapse_onto_the_frame(dim, absent):
    frame = simplex(10, dim)
    labels = torch.arange(10 - absent).repeat_interleave(torch.arange(2, 12 - absent))
    features = (7 * frame.T[labels]).float()
    assert nc2(features, labels) < 1e-6
    assert nc3(features, labels, frame) < 1e-6
    assert nc4(features, labels, frame) == 1
    assert cdnv(features, labels) == 0


def test_nc3_tells_a_simplex_from_the_right_simplex():
    frame = simplex(5, 8)
    labels = torch.arange(5).repeat(3)
    turned = frame.roll(1, dims=1).T[labels]
    assert nc2(turned, labels) < 1e-7
    assert nc3(turned, labels, frame) > 0.5
    close(nc3(-frame.T[labels], labels, frame), 2.0)


def test_nc2_of_points():
    features, labels = clustered([5, 3, 9], dim=4)
    close(nc2(class_statistics(features, labels).means), nc2(features, labels))
    assert nc2(simplex(6, 5).T + 3) < 1e-7


@given(cluster_sets(), st.integers(0, 99), st.sampled_from([1e-3, 1.0, 7e4]))
@settings(max_examples=30, deadline=None)
def test_invariances(data, seed, scale):
    features, labels, k = data
    dim = features.shape[1]
    turn, shift = rotation(dim, seed), normal((dim,), seed)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    moved, relabelled = (scale * (features @ turn + shift))[order], labels[order]
    frame = normal((dim, k), seed + 1)
    close(nc2(moved, relabelled), nc2(features, labels), 1e-7)
    close(nc3(moved, relabelled, turn.T @ frame * 3), nc3(features, labels, frame), 1e-7)
    close(cdnv(moved, relabelled) / cdnv(features, labels), 1.0, 1e-7)
    turned = scale * (features @ turn)[order]
    close(nc4(turned, relabelled, turn.T @ frame), nc4(features, labels, frame), 1e-12)


@given(cluster_sets(), st.integers(1, 6), st.integers(0, 7))
@settings(max_examples=20, deadline=None)
def test_stream_and_merge_equal_one_shot(data, pieces, cut):
    features, labels, k = data
    frame = normal((features.shape[1], k), 5)
    parts = split(features, labels, pieces)
    first = ClassStatisticsAccumulator(k)
    for part in parts:
        first.update(*part)
    statistics = first.compute()
    close(statistics.nc2(), nc2(features, labels), 1e-10)
    close(statistics.nc3(frame), nc3(features, labels, frame), 1e-10)
    close(statistics.cdnv() / cdnv(features, labels), 1.0, 1e-10)
    second = [NC4Accumulator(statistics, frame), NC4Accumulator(statistics, frame)]
    for i, (rows, _) in enumerate(parts):
        second[i > cut].update(rows)
    result = second[0].merge(second[1]).compute()
    close(result.agreement, nc4(features, labels, frame), 1e-12)
    assert (result.samples, result.absent) == (len(labels), 0)


def test_cdnv_of_coinciding_means_is_infinite():
    noise = normal((4, 3), 1).float()
    features = torch.cat([noise, noise, noise + 5])
    assert cdnv(features, torch.arange(3).repeat_interleave(4)) == math.inf


def test_undefined_measures_say_what_they_need():
    features, labels = clustered([6, 1], dim=4)
    with pytest.raises(DataError, match=r"cdnv.*two samples each"):
        cdnv(features, labels)
    constant = torch.full((6, 3), 0.1)
    labels = torch.arange(3).repeat(2)
    for call in (lambda: nc2(constant, labels), lambda: nc3(constant, labels, torch.eye(3)), lambda: nc2(constant)):
        with pytest.raises(DataError, match="means differ"):
            call()
    with pytest.raises(DataError, match="finite"):
        nc4(constant / 0, labels, torch.eye(3))
    assert ClassStatisticsAccumulator(3).merge(_of(constant, labels)).compute().nc2().isnan()


def _of(features, labels):
    accumulator = ClassStatisticsAccumulator(3)
    accumulator.update(features, labels)
    return accumulator


def test_wrong_frames():
    features, labels = clustered([6, 4, 5], dim=4)
    for call in (lambda f: nc3(features, labels, f), lambda f: nc4(features, labels, f)):
        with pytest.raises(DataError, match=r"shape \(3, 4\).*D = 4"):
            call(torch.zeros(3, 4))
        with pytest.raises(DataError, match="2 classes"):
            call(torch.zeros(4, 2))
    with pytest.raises(DataError, match="bias"):
        nc4(features, labels, torch.zeros(4, 3), torch.zeros(4))
