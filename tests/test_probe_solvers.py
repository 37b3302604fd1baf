"""The parts of the probe: search over a ladder, L-BFGS, the conditioned problem, the SGD recipe."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from divfeat.errors import NonFiniteError
from divfeat.probe import linear_probe
from divfeat.probe.lbfgs import minimise
from divfeat.probe.path import predicted
from divfeat.probe.problem import Problem
from divfeat.probe.search import PROTOCOL_STRENGTHS, best_index, coarse_to_fine, grid
from divfeat.probe.sgd import sgd
from divfeat.probe.solve import solve

from .test_probe import clusters

# --- search --------------------------------------------------------------------------------------------------------


@given(peak=st.integers(0, 44), left=st.floats(0.001, 0.02), right=st.floats(0.001, 0.02))
def test_coarse_to_fine_finds_any_single_peak(peak: int, left: float, right: float) -> None:
    curve = [0.9 - (left * (peak - index) if index < peak else right * (index - peak)) for index in range(45)]
    found = coarse_to_fine(45, curve.__getitem__, samples=500)
    assert best_index(found) == peak
    assert len(found) <= 18
    assert found == {index: curve[index] for index in found}


def test_coarse_to_fine_leaves_the_weak_end_alone_once_past_the_peak() -> None:
    curve = [0.5 - 0.01 * abs(index - 30) for index in range(45)]
    assert min(coarse_to_fine(45, curve.__getitem__, samples=10**6)) > 16
    # A plateau at chance is no decline: the peak behind it is found.
    flat = [0.5 if index == 4 else 0.1 for index in range(45)]
    assert best_index(coarse_to_fine(45, flat.__getitem__, samples=10**6)) == 4


@given(count=st.integers(1, 12))
def test_short_ladders_are_walked_whole(count: int) -> None:
    order: list[int] = []

    def accuracy(index: int) -> float:
        order.append(index)
        return 0.5

    assert set(coarse_to_fine(count, accuracy, 10)) == set(range(count))
    assert order == sorted(order, reverse=True)
    assert grid(count, accuracy) == dict.fromkeys(range(count), 0.5)
    assert best_index(grid(count, accuracy)) == count - 1


# --- L-BFGS --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), decades=st.integers(0, 4), dim=st.integers(1, 20))
def test_lbfgs_solves_quadratics(seed: int, decades: int, dim: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(dim, dim, generator=generator).double())[0]
    matrix = basis * torch.logspace(0, decades, dim).double() @ basis.T
    target = torch.randn(dim, generator=generator).double()

    def quadratic(point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gradient = matrix @ (point - target)
        return 0.5 * (point - target) @ gradient, gradient, gradient.norm()

    found = minimise(quadratic, torch.zeros(dim).double(), torch.clone, tol=1e-9, max_iter=5000)
    assert found.converged and found.gradient <= 1e-9
    torch.testing.assert_close(found.point, target, rtol=1e-6, atol=1e-6)


def test_lbfgs_survives_a_start_where_the_first_step_overflows() -> None:
    def steep(point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value = (point.exp() - point).sum()
        return value, point.exp() - 1, (point.exp() - 1).norm()

    found = minimise(steep, torch.full((3,), 20.0).double(), torch.clone, tol=1e-8, max_iter=200)
    assert found.converged
    torch.testing.assert_close(found.point, torch.zeros(3).double(), rtol=0, atol=1e-7)


def test_lbfgs_stops_where_arithmetic_ends() -> None:
    def noisy(point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return point.square().sum(), torch.ones_like(point), torch.ones(())  # a gradient that is not the function's

    found = minimise(noisy, torch.zeros(2), torch.clone, tol=1e-3, max_iter=50)
    assert not found.converged and found.iterations <= 50
    torch.testing.assert_close(found.point, torch.zeros(2), rtol=0, atol=1e-2)


# --- the path over strengths ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(known=st.lists(st.integers(0, 44), min_size=1, max_size=6, unique=True), index=st.integers(0, 44))
def test_a_start_is_the_best_polynomial_through_the_nearest_solutions(known: list[int], index: int) -> None:
    problem = Problem(*clusters(40, dim=3, classes=3), 3)
    generator = torch.Generator().manual_seed(sum(known))
    points = {place: torch.randn(problem.null().shape, generator=generator).double() for place in known}
    near = sorted(known, key=lambda place: (abs(place - index), -place))[:3]
    at = np.log10(PROTOCOL_STRENGTHS)
    starts = []
    for count in range(1, len(near) + 1):
        used = near[:count]
        values = torch.stack([points[place].flatten() for place in used]).numpy()
        fitted = np.polynomial.polynomial.polyfit(at[used] - at[index], values, count - 1)[0]
        starts.append(torch.from_numpy(fitted.copy()).view_as(problem.null()))
    objectives = [problem.evaluate(start, PROTOCOL_STRENGTHS[index])[0].item() for start in starts]
    found = predicted(problem, points, PROTOCOL_STRENGTHS, index)
    torch.testing.assert_close(found, starts[int(np.argmin(objectives))], rtol=1e-6, atol=1e-8)


def test_a_start_that_overflows_is_passed_over() -> None:
    problem = Problem(*clusters(40, dim=3, classes=3), 3)
    points = {3: problem.null(), 2: torch.full_like(problem.null(), 1e308)}
    assert torch.equal(predicted(problem, points, PROTOCOL_STRENGTHS, 4), problem.null())


def test_of_two_as_near_the_stronger_comes_first() -> None:
    problem = Problem(*clusters(40, dim=3, classes=3), 3)
    tied = {place: torch.full_like(problem.null(), math.inf) for place in (3, 7)}
    tied[7] = problem.null()
    assert torch.equal(predicted(problem, tied, PROTOCOL_STRENGTHS, 5), problem.null())


def test_predicted_starts_save_most_of_the_way_on_data_that_can_be_separated() -> None:
    """Where the nearest solution lies far away: the weights grow without end as the strength falls."""
    problem = Problem(*clusters(200, dim=20, classes=4), 4)
    spent, points = {"nearest": 0, "predicted": 0}, {}
    for how in spent:
        points = {}
        for index in reversed(range(25)):
            if not points:
                start = problem.null()
            elif how == "nearest":
                start = points[index + 1]
            else:
                start = predicted(problem, points, PROTOCOL_STRENGTHS, index)
            found = solve(problem, start, PROTOCOL_STRENGTHS[index], tol=1e-3, max_iter=1000)
            points[index] = found.point
            spent[how] += found.evaluations
    assert 2 * spent["predicted"] < spent["nearest"], spent


# --- the conditioned problem ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "dim"), [(60, 8), (12, 30)])
def test_problem_is_the_original_one_in_other_coordinates(size: int, dim: int) -> None:
    features, labels = clusters(size, dim=dim, classes=4, imbalance=5)
    problem = Problem(features, labels, 4)
    generator = torch.Generator().manual_seed(3)
    packed = torch.randn(problem.null().shape, generator=generator).double()
    weight, bias = (part.requires_grad_() for part in problem.unpack(packed))
    torch.testing.assert_close(problem.pack(weight.detach(), bias.detach()), packed)

    def original(strength: float) -> Tensor:
        loss = torch.nn.functional.cross_entropy(features @ weight + bias, labels, reduction="sum")
        return loss + strength / 2 * weight.square().sum()

    value, gradient, relative = problem.evaluate(packed, 0.7)
    assert float(value) == pytest.approx(original(0.7).item(), rel=1e-12)
    moving = packed.clone().requires_grad_()
    logits = problem.columns.T @ moving
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum") + 0.35 * moving[:-1].square().sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, moving)[0])

    def ratio(weight: Tensor, bias: Tensor, strength: float) -> float:
        loss = torch.nn.functional.cross_entropy(features @ weight + bias, labels, reduction="sum")
        parts = torch.autograd.grad(loss + strength / 2 * weight.square().sum(), (weight, bias))
        residual = (features @ weight + bias).softmax(1) - torch.nn.functional.one_hot(labels, 4)
        return (torch.cat([parts[0], parts[1][None]]).norm() / residual.norm()).item()

    null = [part.requires_grad_() for part in problem.unpack(problem.null())]
    assert float(relative) == pytest.approx(ratio(weight, bias, 0.7) / ratio(null[0], null[1], 0.0), rel=1e-9)


def test_null_model_is_stationary_in_the_bias() -> None:
    features, labels = clusters(90, classes=4, imbalance=8)
    problem = Problem(features, labels, 4)
    value, gradient, relative = problem.evaluate(problem.null(), 5.0)
    shares = torch.bincount(labels).double() / 90
    assert float(value) == pytest.approx(-90 * float((shares * shares.log()).sum()))
    torch.testing.assert_close(gradient[-1], torch.zeros(4).double(), rtol=0, atol=1e-10)
    assert float(relative) == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_far_below_rounding_of_a_probability_keep_their_digits(dtype: torch.dtype) -> None:
    features = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=dtype)
    problem = Problem(features, torch.tensor([0, 1, 0, 1]), 2)
    for margin in (1.0, 15.0, 40.0, -15.0, -200.0):
        half = torch.tensor([[margin / 2, -margin / 2]], dtype=dtype)
        packed = problem.pack(half, torch.zeros(2, dtype=dtype))
        value, gradient, _ = problem.evaluate(packed, 0.0)
        expected = 4 * (math.log1p(math.exp(-margin)) if margin > 0 else -margin + math.log1p(math.exp(margin)))
        assert float(value) == pytest.approx(expected, rel=1e-5)
        slope = 4 / (1 + math.exp(margin))
        assert float(gradient[:-1].abs().max()) == pytest.approx(slope, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_preconditioning_pays(seed: int) -> None:
    features, labels = clusters(300, dim=20, classes=6, seed=seed)
    problem = Problem(features * torch.logspace(0, 2, 20).double(), labels, 6)
    start = problem.null()

    def function(point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return problem.evaluate(point, 0.1)

    diagonal, blocks = problem.diagonal(start, 0.1), problem.blocks(start, 0.1)
    plain, scaled, full = (
        minimise(function, start, inverse, tol=1e-4, max_iter=5000)
        for inverse in (torch.clone, lambda vector: vector * diagonal, lambda vector: apply_blocks(blocks, vector))
    )
    assert plain.converged and scaled.converged and full.converged
    # At the null model all samples have one curvature, so that blocks and diagonal are as good: which one wins is chance.
    assert max(scaled.evaluations, full.evaluations) < plain.evaluations / 3


def apply_blocks(blocks: Tensor, vector: Tensor) -> Tensor:
    return torch.stack([block @ column for block, column in zip(blocks, vector.T, strict=True)], 1)


def test_blocks_invert_the_hessian_of_each_class() -> None:
    features, labels = clusters(40, dim=5, classes=3)
    problem = Problem(features, labels, 3)
    packed = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()
    blocks = problem.blocks(packed, 0.5)
    for label in range(3):
        columns = []
        for row in range(6):
            step = torch.zeros(6, 3).double()
            step[row, label] = 1e-5
            ahead, behind = (problem.evaluate(packed + sign * step, 0.5)[1][:, label] for sign in (1, -1))
            columns.append((ahead - behind) / 2e-5)
        torch.testing.assert_close(blocks[label] @ torch.stack(columns, 1), torch.eye(6).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("strength", [1e-5, 1e-2])
def test_hard_problems_and_bad_starts_converge_through_the_blocks(strength: float) -> None:
    features, labels = clusters(200, spread=0.8)
    problem = Problem(features, labels, 5)
    good = solve(problem, problem.null(), strength, tol=1e-7, max_iter=2000)
    far = 30 * torch.randn(problem.null().shape, generator=torch.Generator().manual_seed(0)).double()
    bad = solve(problem, far, strength, tol=1e-7, max_iter=2000)
    assert good.converged
    assert bad.converged
    assert bad.objective == pytest.approx(good.objective, rel=1e-7)
    short = solve(problem, far, strength, tol=1e-6, max_iter=25)
    assert short.iterations == 25
    assert not short.converged


def test_without_room_for_blocks_the_diagonal_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clusters(200, spread=0.8)
    problem = Problem(features, labels, 5)
    expected = solve(problem, problem.null(), 0.01, tol=1e-6, max_iter=1000)
    monkeypatch.setattr("divfeat.probe.solve._BLOCK_NUMBERS", 0)
    monkeypatch.setattr(Problem, "blocks", None)
    found = solve(problem, problem.null(), 0.01, tol=1e-6, max_iter=1000)
    assert found.converged
    assert found.iterations > 20
    assert found.objective == pytest.approx(expected.objective, rel=1e-8)


# --- SGD -----------------------------------------------------------------------------------------------------------


def test_sgd_is_the_naive_loop() -> None:
    features, labels = clusters(20, dim=4, classes=3)
    weights, biases = sgd(features, labels, 3, [0.0, 2.0], epochs=2, batch_size=8, learning_rate=0.3, seed=5)
    for strength, weight, bias in zip([0.0, 2.0], weights, biases, strict=True):
        model = [torch.zeros(4, 3).double().requires_grad_(), torch.zeros(3).double().requires_grad_()]
        generator = torch.Generator().manual_seed(5)
        for _ in range(2):
            order = torch.randperm(20, generator=generator)
            for first in range(0, 20, 8):
                batch = order[first : first + 8]
                loss = torch.nn.functional.cross_entropy(features[batch] @ model[0] + model[1], labels[batch])
                parts = torch.autograd.grad(loss, model)
                with torch.no_grad():
                    model[0].sub_(0.3 * parts[0]).div_(1 + 0.3 * strength / 20)
                    model[1].sub_(0.3 * parts[1])
        torch.testing.assert_close(weight, model[0].detach())
        torch.testing.assert_close(bias, model[1].detach())


def test_sgd_recipe_is_deterministic_and_seeded() -> None:
    train, test = clusters(200), clusters(100, draw=2)
    first, again, other = (linear_probe(train, None, test, solver="sgd", epochs=5, seed=seed) for seed in (0, 0, 1))
    assert first.solver == "sgd" and first.strength == 0.0 and first.iterations == 5 * 2
    assert torch.equal(first.weight, again.weight) and first.objective == again.objective
    assert not torch.equal(first.weight, other.weight)


@pytest.mark.parametrize("strength", [1.0, 30.0])
def test_sgd_comes_near_the_minimum(strength: float) -> None:
    train = clusters(600, dim=8, spread=0.8)
    best = linear_probe(train, strengths=[strength], standardize=True, tol=1e-8)
    found = linear_probe(train, strengths=[strength], solver="sgd", standardize=True)
    assert best.objective <= found.objective <= 1.01 * best.objective
    assert not found.converged


def test_sgd_objective_counts_the_whole_weight() -> None:
    features, labels = clusters(20, dim=40)
    found = linear_probe((features, labels), strengths=[3.0], solver="sgd", learning_rate=0.1, epochs=3)
    loss = torch.nn.functional.cross_entropy(features @ found.weight + found.bias, labels, reduction="sum")
    assert found.objective == pytest.approx(float(loss + 1.5 * found.weight.square().sum()), rel=1e-12)


def test_divergence_is_named() -> None:
    features, labels = clusters(50)
    with pytest.raises(NonFiniteError, match="diverged at learning rate"):
        linear_probe((features, labels), solver="sgd", learning_rate=1e38, epochs=3, dtype=torch.float32)
