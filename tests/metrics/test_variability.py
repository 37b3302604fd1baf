import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divfeat.errors import ConfigError, DataError
from divfeat.metrics import ClassStatisticsAccumulator, NC1Accumulator, class_statistics, nc1
from tests.metrics.samples import DTYPES, close, cluster_sets, clustered, normal, rotation, simplex, split

WEIGHTINGS = ["pooled", "balanced"]


def dense(features, labels, weighting):
    """tr(Sigma_W pinv(Sigma_B))/K with D x D matrices, sample by sample, over classes of two samples or more."""
    features = features.double()
    classes = [k for k in labels.unique().tolist() if (labels == k).sum() > 1]
    means = {k: features[labels == k].mean(dim=0) for k in classes}
    centre = sum(means.values()) / len(classes)
    between = sum(torch.outer(m - centre, m - centre) for m in means.values()) / len(classes)
    within, samples = torch.zeros_like(between), 0
    for k in classes:
        scatter = torch.zeros_like(between)
        rows = features[labels == k]
        for row in rows:
            scatter += torch.outer(row - means[k], row - means[k])
        within += scatter if weighting == "pooled" else scatter / len(rows)
        samples += len(rows) if weighting == "pooled" else 1
    # A pinv cut at the rank of Sigma_B.
    values, vectors = torch.linalg.eigh(between)
    rank = min(len(classes) - 1, features.shape[1])
    pinv = (vectors[:, -rank:] / values[-rank:]) @ vectors[:, -rank:].T
    return (within / samples @ pinv).trace() / len(classes)


def streamed(features, labels, num_classes, pieces, cut=0):
    first = [ClassStatisticsAccumulator(num_classes), ClassStatisticsAccumulator(num_classes)]
    parts = split(features, labels, pieces)
    for i, part in enumerate(parts):
        first[i > cut].update(*part)
    statistics = first[0].merge(first[1]).compute()
    second = [NC1Accumulator(statistics), NC1Accumulator(statistics)]
    for i, part in enumerate(reversed(parts)):
        second[i > cut].update(*part)
    return second[0].merge(second[1]).compute()


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize(
    ("counts", "dim"),
    [([9, 9, 9, 9], 12), ([40, 9, 3, 2, 17], 12), ([7, 5, 30, 6, 8, 9, 11], 3), ([9, 4], 5), ([8, 6, 5], 1)],
    ids=["balanced", "long tail", "D < K - 1", "two classes", "one dimension"],
)
def test_against_dense_matrices(counts, dim, weighting):
    features, labels = clustered(counts, dim)
    expected = dense(features, labels, weighting)
    close(nc1(features, labels, weighting=weighting), expected)
    assert expected > 1e-3


def test_torch_pinv_agrees():
    features, labels = clustered([9, 6, 12, 5], dim=7)
    statistics = class_statistics(features, labels)
    centred = statistics.means - statistics.means.mean(dim=0)
    deviations = features - statistics.means[labels]
    within, between = deviations.T @ deviations / len(labels), centred.T @ centred / 4
    close(nc1(features, labels), (within @ torch.linalg.pinv(between, rtol=1e-10)).trace() / 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_dtype_is_lifted_exactly(dtype):
    features, labels = clustered([9, 6, 12, 5], dim=7)
    features = features.to(dtype)
    result = nc1(features, labels)
    assert result.dtype == torch.float64
    close(result, dense(features, labels, "pooled"))


@given(cluster_sets(), st.integers(0, 99), st.sampled_from([1e-3, 1.0, 7e4]), st.sampled_from(WEIGHTINGS))
@settings(max_examples=30, deadline=None)
def test_free_of_rotation_scale_shift_and_order(data, seed, scale, weighting):
    features, labels, _ = data
    moved = scale * (features @ rotation(features.shape[1], seed) + normal((features.shape[1],), seed))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    expected = nc1(features, labels, weighting=weighting)
    close(nc1(moved[order], labels[order], weighting=weighting) / expected, 1.0, 1e-6)


@given(cluster_sets(smallest=0), st.integers(1, 6), st.integers(0, 7))
@settings(max_examples=30, deadline=None)
def test_stream_and_merge_equal_one_shot(data, pieces, cut):
    features, labels, k = data
    if len(labels) == 0:
        return
    result = streamed(features, labels, k, pieces, cut)
    if result.pooled.isnan():
        assert result.classes < 2
        with pytest.raises(DataError, match="nc1"):
            nc1(features, labels, k)
        return
    close(result.pooled / nc1(features, labels, k), 1.0, 1e-7)
    close(result.balanced / nc1(features, labels, k, weighting="balanced"), 1.0, 1e-7)


@given(cluster_sets())
@settings(max_examples=20, deadline=None)
def test_scales_with_the_square_of_the_noise(data):
    features, labels, _ = data
    means = class_statistics(features, labels).means[labels]
    close(nc1(means + 0.01 * (features - means), labels) / nc1(features, labels), 1e-4, 1e-9)


def test_weightings_agree_on_balanced_classes_only():
    features, labels = clustered([6, 6, 6], dim=4)
    close(nc1(features, labels), nc1(features, labels, weighting="balanced"))
    features, labels = clustered([60, 6, 6], dim=4)
    assert abs(nc1(features, labels) / nc1(features, labels, weighting="balanced") - 1) > 0.01


def test_absent_and_singleton_classes_are_left_out_and_counted():
    features, labels = clustered([9, 0, 1, 12, 5, 1], dim=7)
    result = streamed(features, labels, 8, pieces=3)
    assert (result.classes, result.absent, result.singletons, result.samples) == (3, 3, 2, 26)
    assert (result.rank, result.full_rank) == (2, 2)
    keep = (labels != 2) & (labels != 5)
    for weighting in WEIGHTINGS:
        expected = dense(features[keep], labels[keep], weighting)
        close(getattr(result, weighting), expected)
        close(nc1(features, labels, 8, weighting=weighting), expected)
    assert result.by_class.isnan().tolist() == [False, True, True, False, False, True, True, True]
    close(result.by_class.nanmean(), result.balanced)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [20, 3], ids=["D >= K - 1", "D < K - 1"])
def test_full_collapse(dtype, dim):
    labels = torch.arange(10).repeat_interleave(torch.arange(2, 12))
    points = (100 + 3 * normal((10, dim), 4)).to(dtype)
    for weighting in WEIGHTINGS:
        value = nc1(points[labels], labels, weighting=weighting)
        assert 0 <= value < 1e-20
    result = streamed(points[labels], labels, 10, pieces=5)
    assert 0 <= result.pooled < 1e-20
    assert (result.rank, result.full_rank) == (min(9, dim), min(9, dim))


def test_near_collapse_is_resolved_in_float32():
    """Noise of 1e-5 about means of size 10: E[hh^T] - mu mu^T in float32 would carry 1e-5 of rounding alone."""
    labels = torch.arange(5).repeat(200)
    points = 10 * simplex(5, 16).T
    features = (points[labels] + 1e-5 * normal((1000, 16), 3)).float()
    value = nc1(features, labels)
    close(value / dense(features, labels, "pooled"), 1.0, 1e-6)
    # By hand: Sigma_W = 1e-10 I and four equal eigenvalues of Sigma_B, each 100/4.
    close(value / (1e-10 * 4 / (100 / 4) / 5), 1.0, 0.05)


def test_faint_between_class_directions_count():
    """A float32 pinv cuts at 2.4e-4 of the largest eigenvalue; this direction stands at about 1e-8 of it."""
    features, labels = clustered([30, 30, 30], dim=2)
    features = features * torch.tensor([1.0, 1e-4])
    expected = nc1(features * torch.tensor([1.0, 1e4]), labels)
    close(nc1(features, labels) / expected, 1.0, 1e-6)


def test_features_that_fill_a_subspace():
    """The CIFAR100-LT projector maps 64 dimensions to 128: in float32 the other 64 hold rounding only."""
    small, labels = clustered([6] * 9, dim=4)
    wide = small.float() @ rotation(12)[:4].float()
    result = streamed(wide, labels, 9, pieces=2)
    assert (result.rank, result.full_rank) == (4, 8)
    close(result.pooled, nc1(small, labels), 1e-5)
    dead = torch.cat([small, torch.zeros(len(small), 6)], dim=1)
    close(nc1(dead, labels), nc1(small, labels))


@pytest.mark.parametrize(
    "points",
    [
        torch.ones(3, 4),
        torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]),
        torch.arange(3.0)[:, None].expand(3, 4),
    ],
    ids=["all means coincide", "two means coincide", "means on a line"],
)
def test_degenerate_means_are_refused_not_guessed(points):
    noise = normal((4, 4), 2)
    labels = torch.arange(3).repeat_interleave(8)
    features = points.double()[labels] + torch.cat([noise, -noise]).repeat(3, 1)
    assert streamed(features, labels, 3, 1).pooled.isnan()
    with pytest.raises(DataError, match="general position"):
        nc1(features, labels)


def test_undefined_and_wrong_calls():
    features, labels = clustered([6, 1, 0], dim=4)
    with pytest.raises(DataError, match="1 usable classes"):
        nc1(features, labels, 3)
    features, labels = clustered([6, 5, 4], dim=4)
    with pytest.raises(ConfigError, match=r"'median'.*pooled, balanced"):
        nc1(features, labels, weighting="median")
    with pytest.raises(DataError, match="finite"):
        nc1(features.clone().index_fill_(0, torch.tensor([2]), torch.nan), labels)


def test_the_second_pass_must_see_the_same_samples():
    features, labels = clustered([6, 5, 4], dim=4)
    statistics = class_statistics(features, labels)
    accumulator = NC1Accumulator(statistics)
    accumulator.update(features[:-1], labels[:-1])
    with pytest.raises(DataError, match="saw 14 samples"):
        accumulator.compute()
    other = NC1Accumulator(class_statistics(features + normal(tuple(features.shape), 1), labels))
    with pytest.raises(DataError, match="different class means"):
        accumulator.merge(other)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu():
    features, labels = clustered([9, 6, 0, 12, 5], dim=7)
    close(nc1(features.float().cuda(), labels.cuda()).cpu(), nc1(features.float(), labels), 1e-8)


def test_blocks_inside_a_pass_change_nothing(monkeypatch):
    features, labels = clustered([9, 4, 7, 5], 6)
    kept = features.clone()
    whole_statistics, whole = class_statistics(features, labels), nc1(features, labels)
    monkeypatch.setattr("divfeat.metrics._inputs._BLOCK_ELEMENTS", 7 * 6)  # 25 samples: three blocks of 7, one of 4
    statistics = class_statistics(features, labels)
    torch.testing.assert_close(statistics.means, whole_statistics.means, rtol=0, atol=0)
    torch.testing.assert_close(statistics.variances, whole_statistics.variances, rtol=0, atol=0)
    torch.testing.assert_close(nc1(features, labels), whole, rtol=1e-13, atol=0)
    assert torch.equal(features, kept)  # float64 features are copied too before a block is overwritten


def test_no_matrix_of_features_by_features():
    """D x D numbers would take 320 GB here."""
    features, labels = normal((12, 200_000), 5).float(), torch.arange(12) % 3
    value = nc1(features, labels)
    assert value.isfinite() and value > 0
