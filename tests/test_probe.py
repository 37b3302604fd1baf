"""linear_probe against scikit-learn, a naive loop, and the symmetries of the problem."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor

from divfeat.errors import ConfigError, DataError
from divfeat.probe import PROTOCOL_STRENGTHS, ProbeResult, linear_probe

Data = tuple[Tensor, Tensor]


def clusters(
    size: int,
    dim: int = 10,
    classes: int = 5,
    spread: float = 1.0,
    seed: int = 0,
    draw: int = 1,
    imbalance: float = 1.0,
) -> Data:
    """Rectified clusters with a decaying spectrum and a mean far from zero, as pooled features are."""
    fixed = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, dim + 1).double() ** -0.5
    centres = torch.randn(classes, dim, generator=fixed).double() * spectrum
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=fixed).double())[0]
    generator = torch.Generator().manual_seed(1000 * seed + draw)
    shares = imbalance ** (-torch.arange(classes) / (classes - 1))
    labels = torch.cat([torch.arange(classes), torch.multinomial(shares, size - classes, True, generator=generator)])
    noise = torch.randn(size, dim, generator=generator).double() * spectrum * spread
    return torch.relu((centres[labels] + noise) @ rotation + 0.3) + 1.0, labels


def objective(data: Data, weight: Tensor, bias: Tensor, strength: float) -> float:
    """The definition, sample by sample."""
    total = 0.0
    for features, label in zip(data[0].tolist(), data[1].tolist(), strict=True):
        logits = [
            sum(x * w for x, w in zip(features, column, strict=True)) + b
            for column, b in zip(weight.T.tolist(), bias.tolist(), strict=True)
        ]
        top = max(logits)
        total += top + math.log(sum(math.exp(value - top) for value in logits)) - logits[label]
    return total + strength / 2 * sum(value**2 for value in weight.flatten().tolist())


def gradients(data: Data, result: ProbeResult) -> tuple[Tensor, Tensor, Tensor]:
    """Autograd's gradient of the original problem in W and in b, and the residual P - Y."""
    weight, bias = result.weight.double().requires_grad_(), result.bias.double().requires_grad_()
    logits = data[0].double() @ weight + bias
    loss = torch.nn.functional.cross_entropy(logits, data[1], reduction="sum")
    by_weight, by_bias = torch.autograd.grad(loss + result.strength / 2 * weight.square().sum(), (weight, bias))
    residual = logits.detach().softmax(1) - torch.nn.functional.one_hot(data[1], logits.shape[1])
    return by_weight, by_bias, residual


def reference(data: Data, strength: float) -> tuple[LogisticRegression, float]:
    features, labels = data[0].double().numpy(), data[1].numpy()
    model = LogisticRegression(C=1 / strength, tol=1e-9, max_iter=20000).fit(features, labels)
    weight, bias = torch.from_numpy(model.coef_.T.copy()), torch.from_numpy(model.intercept_.copy())
    return model, objective(data, weight, bias, strength)


@pytest.mark.parametrize("strength", [1e-2, 1.0, 30.0, 1e3])
@pytest.mark.parametrize("imbalance", [1.0, 30.0])
def test_agrees_with_scikit_learn(strength: float, imbalance: float) -> None:
    train, test = (clusters(200, draw=draw, imbalance=imbalance) for draw in (1, 2))
    model, expected = reference(train, strength)
    result = linear_probe(train, None, test, strengths=[strength], tol=1e-8)
    assert result.converged
    assert result.objective == pytest.approx(expected, rel=1e-8)
    assert result.objective == pytest.approx(objective(train, result.weight, result.bias, strength), rel=1e-12)
    torch.testing.assert_close(result.weight, torch.from_numpy(model.coef_.T.copy()), rtol=1e-3, atol=1e-4)
    assert result.test is not None
    assert result.test.predictions.tolist() == model.predict(test[0].numpy()).tolist()


@pytest.mark.parametrize("strength", [1e-2, 1.0, 1e2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_default_tolerance_gives_the_objective_to_one_in_a_million(strength: float, dtype: torch.dtype) -> None:
    train = clusters(200, spread=0.8)
    best = linear_probe(train, strengths=[strength], tol=1e-8, dtype=torch.float64).objective
    result = linear_probe(train, strengths=[strength], dtype=dtype)
    assert objective(train, result.weight, result.bias, strength) == pytest.approx(best, rel=1e-6)


def test_gradient_of_the_original_problem_vanishes_and_is_reported() -> None:
    train = clusters(200, imbalance=10)
    start = linear_probe(train, strengths=[1e12], tol=1e-10)  # W = 0: the null model, the unit of the gradient
    null_weight, null_bias, null_residual = gradients(train, start)
    null_weight = null_weight - 1e12 * start.weight
    unit = torch.cat([null_weight, null_bias[None]]).norm() / null_residual.norm()
    for tol in (1e-2, 1e-8):
        result = linear_probe(train, strengths=[0.1], tol=tol)
        by_weight, by_bias, residual = gradients(train, result)
        relative = (torch.cat([by_weight, by_bias[None]]).norm() / residual.norm() / unit).item()
        assert relative <= tol * 1.001
        assert result.chosen.gradient == pytest.approx(relative, rel=1e-3)


def test_bias_is_not_penalised() -> None:
    train, test = clusters(200, imbalance=10), clusters(100, draw=2)
    shift = torch.linspace(-20, 20, train[0].shape[1]).double()
    plain = linear_probe(train, None, test, strengths=[5.0], tol=1e-8)
    moved = linear_probe((train[0] + shift, train[1]), None, (test[0] + shift, test[1]), strengths=[5.0], tol=1e-8)
    assert moved.objective == pytest.approx(plain.objective, rel=1e-10)
    assert torch.equal(moved.test.predictions, plain.test.predictions)  # type: ignore[union-attr]
    torch.testing.assert_close(gradients(train, plain)[1], torch.zeros(5).double(), rtol=0, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3), power=st.integers(-3, 3))
def test_rotated_and_scaled_features_give_the_same_probe(seed: int, scale: float, power: int) -> None:
    train, test = clusters(60, dim=6, classes=3), clusters(40, dim=6, classes=3, draw=2)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(seed)).double())[0] * scale
    strength = 10.0**power
    plain = linear_probe(train, None, test, strengths=[strength], tol=1e-9)
    turned = linear_probe(
        (train[0] @ rotation, train[1]), None, (test[0] @ rotation, test[1]), strengths=[strength * scale**2], tol=1e-9
    )
    assert turned.objective == pytest.approx(plain.objective, rel=1e-9)
    torch.testing.assert_close(turned.logits(test[0] @ rotation), plain.logits(test[0]), rtol=1e-4, atol=1e-4)


def test_two_classes_match_the_binary_problem() -> None:
    train = clusters(120, classes=2)
    result = linear_probe(train, strengths=[0.5], tol=1e-9)
    # W = (-w/2, w/2) has ||W||^2 = ||w||^2 / 2, hence C = 2 / strength there.
    model = LogisticRegression(C=2 / 0.5, tol=1e-9, max_iter=10000).fit(*(part.numpy() for part in train))
    difference = result.weight[:, 1] - result.weight[:, 0]
    torch.testing.assert_close(difference, torch.from_numpy(model.coef_[0].copy()), rtol=1e-4, atol=1e-5)
    assert float(result.bias[1] - result.bias[0]) == pytest.approx(float(model.intercept_[0]), rel=1e-4)


@pytest.mark.parametrize("strength", [1e-3, 1.0])
def test_more_features_than_samples(strength: float) -> None:
    train, test = clusters(30, dim=80), clusters(50, dim=80, draw=2)
    model, expected = reference(train, strength)
    result = linear_probe(train, None, test, strengths=[strength], tol=1e-8)
    assert result.weight.shape == (80, 5)
    assert result.objective == pytest.approx(expected, rel=1e-6)
    assert result.test is not None
    assert result.test.predictions.tolist() == model.predict(test[0].numpy()).tolist()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_separable_data_with_hardly_any_penalty(dtype: torch.dtype) -> None:
    train = clusters(100, spread=0.05)
    result = linear_probe(train, train, strengths=[1e-9], dtype=dtype)
    assert result.converged
    assert result.val is not None and result.val.top1 == 1.0
    assert bool(result.weight.isfinite().all()) and result.objective < 1e-4
    # Fenchel duality: with a balanced bias the distance to the minimum is at most ||dF/dW||^2 / (2 strength).
    tight = linear_probe(train, strengths=[1e-9], dtype=torch.float64, tol=1e-9)
    assert float(gradients(train, tight)[0].square().sum()) / 2e-9 < 1e-6 * tight.objective
    assert result.objective == pytest.approx(tight.objective, rel=1e-5)


def test_constant_features() -> None:
    features, labels = clusters(80, imbalance=5)
    shares = torch.bincount(labels).double() / 80
    entropy = -80 * float((shares * shares.log()).sum())
    for value in (0.0, 0.1, 1e6):
        for standardize in (False, True):
            train = (torch.full_like(features, value), labels)
            result = linear_probe(train, train, strengths=[1e-3], standardize=standardize)
            assert result.converged
            assert result.objective == pytest.approx(entropy, rel=1e-9)
            assert result.val is not None and result.val.top1 == pytest.approx(float(shares.max()))
    padded = linear_probe((torch.cat([features, torch.full((80, 3), 7.0)], 1), labels), strengths=[0.1], tol=1e-8)
    assert padded.objective == pytest.approx(linear_probe((features, labels), strengths=[0.1], tol=1e-8).objective)
    torch.testing.assert_close(padded.weight[-3:], torch.zeros(3, 5).double(), rtol=0, atol=1e-8)


def test_float32_agrees_with_float64() -> None:
    train, val, test = (clusters(400, draw=draw) for draw in (1, 2, 3))
    single, double = (linear_probe(train, val, test, dtype=dtype) for dtype in (torch.float32, torch.float64))
    assert single.weight.dtype == torch.float32 and double.weight.dtype == torch.float64
    assert single.strength == double.strength
    assert single.objective == pytest.approx(double.objective, rel=1e-6)
    agreement = (single.test.predictions == double.test.predictions).double().mean()  # type: ignore[union-attr]
    assert agreement >= 0.995


def test_large_work_is_done_in_float32_unless_asked() -> None:
    train = clusters(9000, dim=200, classes=10)
    assert linear_probe(train, strengths=[1e3]).weight.dtype == torch.float32
    assert linear_probe((train[0][:500], train[1][:500]), strengths=[1e3]).weight.dtype == torch.float64


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("spread", "imbalance"), [(1.0, 1.0), (0.6, 20.0)])
def test_coarse_to_fine_does_as_well_as_the_grid(seed: int, spread: float, imbalance: float) -> None:
    train = clusters(150, dim=24, classes=8, spread=spread, seed=seed, imbalance=imbalance)
    val = clusters(4000, dim=24, classes=8, spread=spread, seed=seed, draw=2)
    fine = linear_probe(train, val)
    full = linear_probe(train, val, search="grid")
    assert [fit.strength for fit in full.evaluated] == pytest.approx(np.logspace(-6, 5, 45).tolist())
    assert len(fine.evaluated) <= 18
    assert fine.val is not None and full.val is not None
    # Fits that are only compared carry the search tolerance: one of the 4000 images may fall either way.
    assert fine.val.top1 >= full.val.top1 - 1.5 / 4000
    assert full.val.top1 == max(fit.val_accuracy or 0 for fit in full.evaluated)


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_ties_go_to_the_stronger_regularisation(solver: str) -> None:
    train = clusters(100, spread=0.05)
    result = linear_probe(train, train, strengths=[1e-3, 1e-2, 1e-4], solver=solver, learning_rate=0.1)  # type: ignore[arg-type]
    assert [fit.val_accuracy for fit in result.evaluated] == [1.0, 1.0, 1.0]
    assert result.strength == 1e-2
    assert result.at_grid_end == "high"


def test_a_best_strength_at_the_end_of_the_grid_is_flagged() -> None:
    train, val = clusters(150, dim=24), clusters(2000, dim=24, draw=2)
    best = linear_probe(train, val)
    assert best.at_grid_end is None and min(PROTOCOL_STRENGTHS) < best.strength < max(PROTOCOL_STRENGTHS)
    stronger, weaker = (best.strength * np.array(factors) for factors in ((1e2, 1e3, 1e4), (1e-5, 1e-4, 1e-3)))
    assert linear_probe(train, val, strengths=stronger.tolist()).at_grid_end == "low"
    assert linear_probe(train, val, strengths=weaker.tolist()).at_grid_end == "high"
    assert linear_probe(train, val, strengths=[best.strength]).at_grid_end is None


@pytest.mark.parametrize("standardize", [False, True])
def test_a_warm_start_changes_speed_and_nothing_else(standardize: bool) -> None:
    train = clusters(200)
    options = {"standardize": standardize, "tol": 1e-8}
    cold = linear_probe(train, strengths=[0.1], **options)  # type: ignore[arg-type]
    for other in (1e3, 1e-3):
        start = linear_probe(train, strengths=[other], **options)  # type: ignore[arg-type]
        warm = linear_probe(train, strengths=[0.1], warm_start=start, **options)  # type: ignore[arg-type]
        assert warm.objective == pytest.approx(cold.objective, rel=1e-10)
        torch.testing.assert_close(warm.weight, cold.weight, rtol=1e-4, atol=1e-5)
    again = linear_probe(train, strengths=[0.1], warm_start=cold, standardize=standardize, tol=1e-7)
    assert again.iterations == 0 and again.evaluations == 1
    assert again.objective == pytest.approx(cold.objective, rel=1e-10)


def test_strengths_start_from_their_neighbours() -> None:
    """Measured: 0.52 of the evaluations that fits from nothing take to the same tolerance."""
    train, val = clusters(400, 30, 8), clusters(300, 30, 8, draw=2)
    ladder = [10 ** (exponent / 10) for exponent in range(-50, -20)]
    together = linear_probe(train, val, strengths=ladder, search="grid", tol=1e-4)
    alone = sum(linear_probe(train, strengths=[strength], tol=1e-3).evaluations for strength in ladder)
    assert together.evaluations < 0.75 * alone


def test_a_frozen_strength_is_the_searched_one() -> None:
    train, val, test = clusters(150), clusters(300, draw=2), clusters(300, draw=3)
    searched = linear_probe(train, val, test, tol=1e-7)
    frozen = linear_probe(train, None, test, strengths=[searched.strength], tol=1e-7)
    assert frozen.val is None and frozen.evaluated[0].val_accuracy is None and frozen.at_grid_end is None
    assert searched.chosen in searched.evaluated
    assert frozen.objective == pytest.approx(searched.objective, rel=1e-9)
    assert torch.equal(frozen.test.predictions, searched.test.predictions)  # type: ignore[union-attr]


def test_scores_of_named_sets_match_scikit_learn() -> None:
    train, val = clusters(100, imbalance=20), clusters(200, draw=2, imbalance=20)
    sets = {"even": clusters(100, draw=3), "tail": clusters(150, draw=4, imbalance=30)}
    result = linear_probe(tuple(part.numpy() for part in train), val, sets, metric="per_class")
    assert set(result.scores) == {"val", "even", "tail"} and result.test is None
    for name, (features, labels) in {"val": val, **sets}.items():
        found = result.scores[name]
        assert found.predictions.dtype == torch.int64 and found.unseen == 0
        assert torch.equal(found.predictions, result.logits(features).argmax(1))
        assert found.top1 == pytest.approx(float((found.predictions == labels).double().mean()))
        assert found.per_class == pytest.approx(balanced_accuracy_score(labels, found.predictions), rel=1e-6)
    assert result.chosen.val_accuracy == result.scores["val"].per_class
    assert result.chosen.val_accuracy == max(fit.val_accuracy or 0 for fit in result.evaluated)


def test_classes_without_a_training_sample_are_wrong_and_reported() -> None:
    (features, labels), (other, truth) = clusters(150, classes=6), clusters(120, classes=6, draw=2)
    keep = (labels != 1) & (labels != 4)
    train = (features[keep], labels[keep])
    result = linear_probe(train, (other, truth), strengths=[0.3], num_classes=8)
    assert result.absent_classes == (1, 4, 6, 7)
    assert result.weight.shape == (10, 8) and torch.isneginf(result.bias[[1, 4, 6, 7]]).all()
    assert result.val is not None
    lost = int(((truth == 1) | (truth == 4)).sum())
    assert result.val.unseen == lost > 0
    assert not set(result.val.predictions.tolist()) & {1, 4, 6, 7}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn is astonished by predictions that lack a class
        assert result.val.per_class == pytest.approx(balanced_accuracy_score(truth, result.val.predictions), rel=1e-6)
    compact = linear_probe((train[0], torch.searchsorted(train[1].unique(), train[1])), strengths=[0.3])
    assert result.objective == pytest.approx(compact.objective, rel=1e-12)
    # A classifier that never saw a class still warm-starts one that does.
    full = linear_probe((features, labels), strengths=[0.3], num_classes=8, warm_start=result, tol=1e-8)
    cold = linear_probe((features, labels), strengths=[0.3], num_classes=8, tol=1e-8)
    assert full.objective == pytest.approx(cold.objective, rel=1e-10)


def test_standardising_is_probing_standardised_features() -> None:
    (features, labels), (other, truth) = clusters(150), clusters(100, draw=2)
    scale = torch.logspace(-3, 3, 10).double()
    features, other = features * scale, other * scale
    deviation, mean = torch.std_mean(features, 0, correction=0)
    inside = linear_probe((features, labels), None, (other, truth), strengths=[2.0], standardize=True, tol=1e-8)
    outside = linear_probe(((features - mean) / deviation, labels), strengths=[2.0], tol=1e-8)
    assert inside.objective == pytest.approx(outside.objective, rel=1e-10)
    torch.testing.assert_close(inside.logits(other), outside.logits((other - mean) / deviation), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(inside.bias.sum(), torch.zeros(()).double(), rtol=0, atol=1e-9)


def test_an_unconverged_probe_says_so() -> None:
    train = clusters(200)
    with pytest.warns(RuntimeWarning, match="raise max_iter"):
        result = linear_probe(train, strengths=[1e-4], max_iter=3)
    assert not result.converged and result.iterations == 3


def test_bad_data_is_refused_by_name() -> None:
    features, labels = clusters(50)
    broken = features.clone()
    broken[7, 3] = math.nan
    broken[9, 0] = math.inf
    good = (features, labels)
    for arguments, message in (
        (((broken, labels), good), "train: 2 of 50 samples .* row 7"),
        ((good, (broken, labels)), "val: 2 of 50"),
        (((features * 1e200, labels), None, None, torch.float32), "train: 50 of 50 .* overflow torch.float32"),
        (((features, labels[:-1]),), r"train: features \(50, 10\) and labels \(49,\)"),
        ((good, (features[:, :4], labels)), "val: 4 features a sample, but train has 10"),
        (((features, labels.double()),), "labels integers, not torch.float64"),
        (((features, labels - 1),), "train: label -1 is negative"),
        (((features, torch.full_like(labels, 3)),), "class 3 only"),
        ((good, (features[:0], labels[:0])), "not empty"),
    ):
        train, val, test, dtype = (*arguments, None, None, None)[:4]
        with pytest.raises(DataError, match=message):
            linear_probe(train, val, test, strengths=[1.0], dtype=dtype)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="label 4 does not fit num_classes=3"):
        linear_probe(good, strengths=[1.0], num_classes=3)


def test_bad_options_are_refused_by_name() -> None:
    good = clusters(50)
    for options, message in (
        ({}, "45 strengths and no validation"),
        ({"strengths": [0.0]}, "needs positive finite numbers"),
        ({"strengths": []}, "needs positive finite numbers"),
        ({"strengths": [math.nan]}, "needs positive finite numbers"),
        ({"solver": "adam"}, "solver='adam'"),
        ({"search": "random"}, "search='random'"),
        ({"metric": "f1"}, "metric='f1'"),
        ({"tol": 0.0}, "tol=0.0"),
        ({"dtype": torch.float16}, "float16"),
        ({"strengths": [1.0], "val": good, "test": {"val": good}}, "name 'val'"),
        ({"solver": "sgd", "warm_start": linear_probe(good, strengths=[1.0])}, "starts from zero"),
        ({"strengths": [1.0], "warm_start": linear_probe(clusters(50, dim=4), strengths=[1.0])}, r"weight \(4, 5\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            linear_probe(good, **options)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_gpu_agrees_with_cpu() -> None:
    train, val = clusters(300), clusters(200, draw=2)
    here = linear_probe(train, val)
    there = linear_probe(tuple(part.cuda() for part in train), val)
    assert there.weight.is_cuda and there.val is not None and there.val.predictions.is_cuda
    assert there.strength == here.strength
    assert there.objective == pytest.approx(here.objective, rel=1e-6)
