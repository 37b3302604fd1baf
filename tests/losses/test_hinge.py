"""HingeCE against equation (8) written out sample by sample, and the claims about its gradient."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from divfeat.errors import ConfigError
from divfeat.frames import pairwise_angles, simplex_angle, simplex_etf
from divfeat.losses import ConeGate, HingeCE, hinge_logits, inside_cone, theorem_tau_minus

PI = math.pi
PAPER = 13 / 36 * PI


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(
    n: int, dim: int, classes: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, labels and a simplex frame; features lean towards their axis, so that some clamps bind."""
    source = generator(seed)
    frame = simplex_etf(classes, dim, generator=source)
    labels = torch.arange(n) % classes
    lean = torch.rand(n, 1, generator=source, dtype=torch.float64) * 6
    features = torch.randn(n, dim, generator=source, dtype=torch.float64) + lean * frame.T[labels]
    return features.to(dtype), labels, frame.to(dtype)


def cone_features(
    frame: Tensor, labels: Tensor, angles: Tensor, norms: Tensor, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Features of given norms at given angles from their axes, in random directions: [N, D]."""
    axes = torch.nn.functional.normalize(frame.double(), dim=0).T[labels]
    noise = torch.randn(axes.shape, generator=generator(seed), dtype=torch.float64)
    tangent = torch.nn.functional.normalize(noise - (noise * axes).sum(1, keepdim=True) * axes, dim=1)
    unit = torch.cos(angles)[:, None] * axes + torch.sin(angles)[:, None] * tangent
    return (norms[:, None] * unit).to(dtype)


def equation_8(
    features: Tensor, labels: Tensor, frame: Tensor, plus: Callable[[int], float], minus: Callable[[int, int], float]
) -> Tensor:
    """The hinged logits one number at a time, in Python floats; plus(y) and minus(y, k) give the thresholds."""
    u, w = features.double().tolist(), frame.double().T.tolist()
    rows = []
    for vector, y in zip(u, labels.tolist(), strict=True):
        norm = math.hypot(*vector)
        row = []
        for k, axis in enumerate(w):
            dot = math.fsum(a * b for a, b in zip(axis, vector, strict=True))
            length = math.hypot(*axis)
            if k == y:
                row.append(min(dot, norm * length * math.cos(plus(y))))
            else:
                row.append(max(dot, norm * length * math.cos(minus(y, k))))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


# --- the logits ---------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    classes=st.integers(2, 7),
    spare=st.integers(0, 4),
    seed=st.integers(0, 2**31),
    plus=st.floats(0, PI),
    minus=st.floats(0.01, PI),
    scale=st.floats(0.1, 10),
)
def test_any_angles_against_the_loop(
    classes: int, spare: int, seed: int, plus: float, minus: float, scale: float
) -> None:
    features, labels, frame = batch(11, classes - 1 + spare, classes, seed)
    frame = frame * scale  # eq. (8) carries ||w_k||
    found = hinge_logits(features, labels, frame, plus, minus)
    expected = equation_8(features, labels, frame, lambda y: plus, lambda y, k: minus)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * scale)


@pytest.mark.parametrize("plus_kind", ["float", "class"])
@pytest.mark.parametrize("minus_kind", ["float", "class", "pair"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 2e-6)]
)
def test_every_form_of_threshold_and_dtype_against_the_loop(
    plus_kind: str, minus_kind: str, dtype: torch.dtype, tolerance: float
) -> None:
    """Half-precision features are exact numbers: only float32 rounding separates their logits from the loop's."""
    classes = 5
    features, labels, frame = batch(60, 8, classes, dtype=dtype)
    frame = frame * torch.linspace(0.5, 2, classes, dtype=torch.float64).to(dtype)
    source = generator(1)
    plus = torch.rand(classes, generator=source, dtype=torch.float64) * 1.4
    minus = 0.8 + torch.rand(classes, classes, generator=source, dtype=torch.float64) * 1.5
    tau_plus: float | Tensor = plus if plus_kind == "class" else 0.9
    tau_minus: float | Tensor = {"float": 1.3, "class": minus[0], "pair": minus}[minus_kind]
    expected = equation_8(
        features,
        labels,
        frame,
        lambda y: plus[y].item() if plus_kind == "class" else 0.9,
        lambda y, k: {"float": 1.3, "class": minus[0, k].item(), "pair": minus[y, k].item()}[minus_kind],
    )
    found = hinge_logits(features, labels, frame, tau_plus, tau_minus)
    assert found.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    scale = float(features.double().norm(dim=1).max() * 2)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance * scale)
    raw = features.double() @ frame.double()
    own = torch.nn.functional.one_hot(labels, classes).bool()
    clamped = (expected - raw).abs() > 1e-6
    assert 0 < clamped[own].sum() < own.sum()  # the comparison saw both branches of both hinges
    assert 0 < clamped[~own].sum() < (~own).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    """Norms, products and the cross-entropy stay in float32 inside a bfloat16 region."""
    features, labels, frame = batch(40, 8, 5, dtype=dtype)
    loss = HingeCE(frame.float(), 0.7, 1.4)
    plain = hinge_logits(features, labels, frame, 0.7, 1.4), loss(features, labels), loss.logits(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (features @ frame).dtype == torch.bfloat16
        inside = hinge_logits(features, labels, frame, 0.7, 1.4), loss(features, labels), loss.logits(features)
        gate = inside_cone(features, labels, frame, 0.7)
    for a, b in zip(plain, inside, strict=True):
        assert b.dtype == torch.float32 and torch.equal(a, b)
    assert torch.equal(gate, inside_cone(features, labels, frame, 0.7))


def test_half_precision_norms_do_not_overflow() -> None:
    features = torch.full((1, 4), 40_000.0, dtype=torch.float16)
    assert torch.isinf(features.norm())
    logits = hinge_logits(features, torch.tensor([0]), simplex_etf(3, 4).half(), 0.5, 1.0)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("own_frames", [False, True])
@pytest.mark.parametrize("shared_labels", [False, True])
@pytest.mark.parametrize("minus_kind", ["float", "pair"])
def test_stacked_configurations_equal_separate_calls(own_frames: bool, shared_labels: bool, minus_kind: str) -> None:
    stacked, n, dim, classes = 3, 20, 6, 4
    features = torch.stack([batch(n, dim, classes, seed)[0] for seed in range(stacked)])
    frames = torch.stack([batch(n, dim, classes, seed)[2] for seed in range(stacked)])
    frame = frames if own_frames else frames[0]
    labels = torch.randint(classes, (stacked, n), generator=generator(5))
    labels = labels[0] if shared_labels else labels
    tau = torch.rand(stacked, classes, generator=generator(6), dtype=torch.float64) * 1.2
    pairs = 1 + torch.rand(stacked, classes, classes, generator=generator(7), dtype=torch.float64)
    minus: float | Tensor = pairs if minus_kind == "pair" else 1.5
    whole = hinge_logits(features, labels, frame, tau, minus)
    gate = inside_cone(features, labels, frame, tau)
    assert whole.shape == (stacked, n, classes) and gate.shape == (stacked, n)
    for s in range(stacked):
        one = (features[s], labels if shared_labels else labels[s], frames[s] if own_frames else frame, tau[s])
        alone = hinge_logits(*one, pairs[s] if minus_kind == "pair" else 1.5)
        torch.testing.assert_close(whole[s], alone, rtol=1e-13, atol=1e-13)
        assert torch.equal(gate[s], inside_cone(*one))


def test_stacked_losses_are_the_means_of_each() -> None:
    features = torch.stack([batch(20, 6, 4, seed)[0] for seed in range(2)])
    _, labels, frame = batch(20, 6, 4)
    tau = torch.tensor([[0.1, 0.5, 0.9, 1.2], [1.0, 0.0, 0.4, 0.2]], dtype=torch.float64)
    losses = HingeCE(frame, tau)(features, labels)
    assert losses.shape == (2,)
    for s in range(2):
        torch.testing.assert_close(losses[s], HingeCE(frame, tau[s])(features[s], labels), rtol=1e-13, atol=0)


# --- nothing is clamped where nothing may be ------------------------------------------------------------------------------


def collapsed(classes: int, dim: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Features on their axes and opposite to another one, where rounding decides a comparison."""
    frame = simplex_etf(classes, dim, generator=generator(3), dtype=dtype)
    labels = torch.arange(40 * classes) % classes
    norms = torch.linspace(0.3, 30, len(labels), dtype=dtype)[:, None]
    away = frame.T[(labels + 1) % classes]
    return torch.cat([norms * frame.T[labels], -norms * away]), labels.repeat(2), frame


@pytest.mark.parametrize("minus", [PI, torch.tensor(PI), torch.full((10,), PI), torch.full((10, 10), PI).double()])
@pytest.mark.parametrize("plus", [0.0, torch.zeros(10)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_collapse_zero_angles_are_cross_entropy_bit_for_bit(
    plus: float | Tensor, minus: float | Tensor, dtype: torch.dtype
) -> None:
    features, labels, frame = collapsed(10, 16, dtype)
    scale = features.norm(dim=1, keepdim=True) * frame.norm(dim=0)
    raw = features @ frame
    assert (raw > scale).any() and (raw < -scale).any()  # a plain minimum and maximum would clamp these
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    assert torch.equal(hinge_logits(features, labels, frame, plus, minus), raw)
    loss = HingeCE(frame, plus, minus)(ours, labels, reduction="none")
    expected = cross_entropy(theirs @ frame, labels, reduction="none")
    assert torch.equal(loss, expected)
    loss.mean().backward()
    cross_entropy(theirs @ frame, labels).backward()
    assert torch.equal(ours.grad, theirs.grad)


def test_at_collapse_only_classes_with_a_cone_are_clamped() -> None:
    features, labels, frame = collapsed(10, 16)
    tau = torch.zeros(10)
    tau[3] = 0.4
    changed = hinge_logits(features, labels, frame, tau) != features @ frame
    expected = torch.zeros_like(changed)
    on_axis = torch.arange(len(labels)) < len(labels) // 2
    expected[(labels == 3) & on_axis, 3] = True
    assert torch.equal(changed, expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_zero_angles_are_cross_entropy_on_any_features(seed: int) -> None:
    features, labels, frame = batch(16, 6, 5, seed, torch.float32)
    assert torch.equal(hinge_logits(features, labels, frame, 0.0), features @ frame)


def test_a_zero_feature_is_safe() -> None:
    features = torch.zeros(3, 4, requires_grad=True)
    loss = HingeCE(simplex_etf(3, 4), 0.5, 1.0)(features, torch.arange(3))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3))
    assert torch.isfinite(features.grad).all()


# --- gradients ------------------------------------------------------------------------------------------------------------


def test_the_gradient_of_a_clamped_sample_is_the_residual_pull() -> None:
    """methods 1.9: dL/du = W (q - q_y e_y) with q the softmax of the clamped logits; cross-entropy has W (q - e_y)."""
    classes, dim = 6, 9
    frame = simplex_etf(classes, dim)
    labels = torch.arange(30) % classes
    inside = cone_features(frame, labels, torch.full((30,), 0.4).double(), torch.linspace(1, 9, 30).double())
    features = inside.clone().requires_grad_()
    logits = hinge_logits(features, labels, frame, 0.8)
    assert (logits.gather(1, labels[:, None]) < (inside @ frame).gather(1, labels[:, None])).all()
    cross_entropy(logits, labels, reduction="sum").backward()
    q = logits.detach().softmax(1)
    q[torch.arange(30), labels] = 0
    torch.testing.assert_close(features.grad, q @ frame.T, rtol=1e-12, atol=1e-14)


def test_unclamped_samples_have_the_gradient_of_cross_entropy() -> None:
    frame = simplex_etf(6, 9)
    labels = torch.arange(30) % 6
    outside = cone_features(frame, labels, torch.full((30,), 1.2).double(), torch.linspace(1, 9, 30).double())
    ours, theirs = outside.clone().requires_grad_(), outside.clone().requires_grad_()
    HingeCE(frame, 0.8)(ours, labels, reduction="sum").backward()
    cross_entropy(theirs @ frame, labels, reduction="sum").backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-13, atol=0)


def test_the_clamps_norm_carries_no_gradient() -> None:
    """Central differences of equation (8) with ||u|| frozen give the gradient; with ||u|| free they do not."""
    classes, plus, minus = 4, 0.9, 1.3
    features, labels, frame = batch(24, 6, classes, seed=4)
    norms = features.norm(dim=1, keepdim=True)
    own = torch.nn.functional.one_hot(labels, classes).bool()

    def loss(u: Tensor, scale: Tensor) -> Tensor:
        raw = u @ frame
        logits = torch.where(
            own, torch.minimum(raw, scale * math.cos(plus)), torch.maximum(raw, scale * math.cos(minus))
        )
        return cross_entropy(logits, labels, reduction="sum")

    leaf = features.clone().requires_grad_()
    HingeCE(frame, plus, minus)(leaf, labels, reduction="sum").backward()
    step = 1e-6
    frozen, free = torch.zeros_like(features), torch.zeros_like(features)
    for i in range(features.shape[0]):
        for d in range(features.shape[1]):
            offset = torch.zeros_like(features)
            offset[i, d] = step
            up, down = features + offset, features - offset
            frozen[i, d] = (loss(up, norms) - loss(down, norms)) / (2 * step)
            free[i, d] = (loss(up, up.norm(dim=1, keepdim=True)) - loss(down, down.norm(dim=1, keepdim=True))) / (
                2 * step
            )
    torch.testing.assert_close(leaf.grad, frozen, rtol=0, atol=1e-7)
    assert (leaf.grad - free).abs().max() > 1e-2


@pytest.mark.parametrize("minus_kind", ["float", "pair"])
def test_gradcheck_away_from_the_kinks(minus_kind: str) -> None:
    """On a sphere the frozen norm is the norm, so autograd must agree with differences in every branch."""
    classes = 4
    features, labels, frame = batch(12, 5, classes, seed=8)
    plus = torch.tensor([0.3, 0.6, 0.9, 1.2], dtype=torch.float64)
    minus: float | Tensor = 1.25 if minus_kind == "float" else 1 + torch.rand(4, 4, generator=generator(2)).double()
    norms = features.norm(dim=1, keepdim=True)

    def logits(x: Tensor) -> Tensor:
        return hinge_logits(norms * x / x.norm(dim=1, keepdim=True), labels, frame, plus, minus)

    cosines = (features @ frame) / norms
    kinks = torch.full((12, 4), 1.25, dtype=torch.float64) if minus_kind == "float" else torch.as_tensor(minus)[labels]
    kinks = kinks.scatter(1, labels[:, None], plus[labels][:, None])
    assert (cosines - kinks.cos()).abs().min() > 1e-4
    assert torch.autograd.gradcheck(logits, features.clone().requires_grad_())
    # Where nothing is clamped no sphere is needed.
    loose = HingeCE(frame, 1e-3, PI - 1e-3)
    assert torch.autograd.gradcheck(lambda u: loose(u, labels), features.clone().requires_grad_())


# --- Theorem 1 --------------------------------------------------------------------------------------------------------------

per_class = torch.tensor([0.2, 0.5, 0.8, 1.1, 0.0, 1.4], dtype=torch.float64)


def gradients(features: Tensor, labels: Tensor, loss: HingeCE) -> Tensor:
    leaf = features.clone().requires_grad_()
    loss(leaf, labels, reduction="sum").backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_theorem_1_zero_gradient_inside_every_cone(dtype: torch.dtype) -> None:
    frame = simplex_etf(6, 10)
    labels = torch.arange(600) % 6
    widths = per_class[labels]
    share = torch.rand(600, generator=generator(0), dtype=torch.float64)
    norms = torch.rand(600, generator=generator(1), dtype=torch.float64) * 5 + 0.1  # above, float32 saturates
    theorem = HingeCE(frame, per_class, theorem_tau_minus(frame, per_class))
    has_cone = widths > 0
    inside = cone_features(frame, labels, widths * 0.999 * share, norms, dtype=dtype)
    gradient = gradients(inside, labels, theorem)
    assert gradient[has_cone].abs().max() == 0
    # The setting of the paper's experiments, tau- = pi, still pulls (methods 1.3).
    assert gradients(inside, labels, HingeCE(frame, per_class))[has_cone].norm(dim=1).min() > 0
    outside = cone_features(frame, labels, widths * 1.001 + 0.01, norms, dtype=dtype)
    assert gradients(outside, labels, theorem).norm(dim=1).min() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("degrees", [1, 10, 30, 45])
def test_theorem_1_at_full_collapse_and_under_autocast(degrees: float, dtype: torch.dtype) -> None:
    """Features on their axes, and near them in bfloat16, which cannot hold an axis."""
    frame = simplex_etf(6, 10)
    labels = torch.arange(60) % 6
    norms = torch.linspace(0.3, 5, 60, dtype=torch.float64)
    tau = torch.full((6,), math.radians(degrees), dtype=torch.float64)
    features = cone_features(frame, labels, torch.zeros(60, dtype=torch.float64), norms, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gradient = gradients(features, labels, HingeCE(frame, tau, theorem_tau_minus(frame, tau)))
    assert gradient.abs().max() == 0


def test_half_the_angle_between_axes_is_where_the_theorem_turns_incoherent() -> None:
    """Above it tau- < tau+: the loss stays above log K whatever the features, even on their axes."""
    frame = simplex_etf(6, 10)
    half = simplex_angle(6) / 2
    for seed in range(5):
        features, labels, _ = batch(60, 10, 6, seed)
        features[:6] = 10 * frame.T[:6]
        losses = {}
        for name, angle in (("below", half - 0.05), ("above", half + 0.05)):
            tau = torch.full((6,), angle, dtype=torch.float64)
            losses[name] = HingeCE(frame, tau, theorem_tau_minus(frame, tau))(features, labels, reduction="none")
        assert losses["above"].min() > math.log(6)
        assert losses["below"].min() < math.log(6)


def test_theorem_1_on_a_frame_that_is_no_simplex() -> None:
    """Axes at unequal angles and of unequal lengths: the triangle inequality asks for nothing else."""
    frame = torch.randn(5, 4, generator=generator(11), dtype=torch.float64)
    angles = pairwise_angles(frame)
    nearest = angles.masked_fill(torch.eye(4, dtype=torch.bool), PI).min(1).values
    tau = nearest * torch.tensor([0.2, 0.5, 0.7, 0.95])
    labels = torch.arange(400) % 4
    share = torch.rand(400, generator=generator(0), dtype=torch.float64)
    inside = cone_features(frame, labels, tau[labels] * 0.999 * share, torch.full((400,), 3.0).double())
    assert gradients(inside, labels, HingeCE(frame, tau, theorem_tau_minus(frame, tau))).abs().max() == 0
    # A single tau- for all pairs would not do: that of the widest cone clamps too little for the narrow ones.
    single = float((angles - tau[:, None]).masked_fill(torch.eye(4, dtype=torch.bool), 0).max())
    assert gradients(inside, labels, HingeCE(frame, tau, single)).abs().max() > 0


def test_theorem_tau_minus_is_theta_less_tau_on_a_simplex() -> None:
    frame = simplex_etf(6, 10)
    found = theorem_tau_minus(frame, per_class)
    for y in range(6):
        for k in range(6):
            cone = per_class[y].item()
            expected = PI if y == k or cone == 0 else simplex_angle(6) - cone
            assert found[y, k].item() == pytest.approx(expected, abs=1e-7)


def test_a_cone_that_reaches_another_axis_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tau\+ = 100\.0 deg, closest axes 96\.4 deg.*'paper' or 'gate'"):
        theorem_tau_minus(simplex_etf(10, 16), torch.full((10,), math.radians(100)))


# --- release by gate ----------------------------------------------------------------------------------------------------------


def test_the_gate_drops_samples_inside_and_leaves_cross_entropy_outside() -> None:
    frame = simplex_etf(6, 10, dtype=torch.float32)
    labels = torch.arange(240) % 6
    angles = torch.where(torch.arange(240) < 120, per_class[labels] * 0.9, per_class[labels] * 1.1 + 0.05)
    features = cone_features(frame, labels, angles, torch.linspace(0.5, 8, 240).double(), dtype=torch.float32)
    inside = (torch.arange(240) < 120) & (per_class[labels] > 0)
    gate = HingeCE(frame, per_class, gate=True)
    assert torch.equal(inside_cone(features, labels, frame, per_class), inside)
    plain = features.clone().requires_grad_()
    expected = cross_entropy(plain @ frame, labels, reduction="none")
    expected.sum().backward()
    losses = gate(features, labels, reduction="none")
    assert losses[inside].abs().max() == 0
    assert torch.equal(losses[~inside], expected[~inside])
    gradient = gradients(features, labels, gate)
    assert gradient[inside].abs().max() == 0
    assert torch.equal(gradient[~inside], plain.grad[~inside])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), tau=st.lists(st.floats(0, PI), min_size=5, max_size=5))
def test_inside_cone_against_a_loop(seed: int, tau: list[float]) -> None:
    features, labels, frame = batch(20, 7, 5, seed)
    frame = frame * torch.linspace(0.3, 3, 5, dtype=torch.float64)
    found = inside_cone(features, labels, frame, torch.tensor(tau, dtype=torch.float64))
    for i, y in enumerate(labels.tolist()):
        axis, u = frame[:, y], features[i]
        cosine = float(axis @ u / axis.norm() / u.norm())
        if abs(cosine - math.cos(tau[y])) > 1e-12:
            assert bool(found[i]) == (tau[y] > 0 and cosine > math.cos(tau[y]))


def test_on_the_axis_a_zero_cone_holds_nothing() -> None:
    features, labels, frame = collapsed(10, 16)
    assert not inside_cone(features, labels, frame, 0.0).any()


# --- the module ---------------------------------------------------------------------------------------------------------------


def test_reductions_and_smoothing_against_torch() -> None:
    features, labels, frame = batch(33, 8, 5)
    loss = HingeCE(frame, 0.7, 1.4, label_smoothing=0.1)
    logits = hinge_logits(features, labels, frame, 0.7, 1.4)
    for reduction in ("mean", "sum", "none"):
        expected = cross_entropy(logits, labels, reduction=reduction, label_smoothing=0.1)
        torch.testing.assert_close(loss(features, labels, reduction=reduction), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(loss(features, labels), loss(features, labels, "mean"), rtol=0, atol=0)
    with pytest.raises(ConfigError, match="unknown reduction 'avg'; known: mean, sum, none"):
        loss(features, labels, reduction="avg")


def test_evaluation_logits_do_not_depend_on_the_thresholds() -> None:
    features, _, frame = batch(10, 8, 5)
    assert torch.equal(HingeCE(frame, 0.0).logits(features), features @ frame)
    assert torch.equal(HingeCE(frame, 1.2, 0.9, gate=True).logits(features), features @ frame)


def test_frame_and_thresholds_are_saved_and_never_trained() -> None:
    frame = simplex_etf(5, 8)
    loss = HingeCE(frame, per_class[:5], 1.4)
    assert list(loss.parameters()) == []
    hinge = "objective.transforms.0"
    assert set(loss.state_dict()) == {"frame", *(f"{hinge}.{name}" for name in ("lengths", "tau_plus", "tau_minus"))}
    other = HingeCE(simplex_etf(5, 8, generator=generator(9)), torch.zeros(5), 2.0)
    other.load_state_dict(loss.state_dict())
    features, labels, _ = batch(10, 8, 5)
    assert torch.equal(other(features, labels), loss(features, labels))
    before = loss(features, labels)
    frame.zero_()  # the caller's tensor is not ours
    assert torch.equal(loss(features, labels), before)


@pytest.mark.parametrize(
    ("plus", "minus", "message"),
    [
        (
            65.0,
            PI,
            r"tau_plus=65 is not an angle in \[0, pi\] radians; angles are radians: 65 degrees would be 1.1345",
        ),
        (0.5, 90.0, r"tau_minus=90 .*90 degrees would be 1.5708"),
        (-0.1, PI, "tau_plus=-0.1"),
        (math.nan, PI, "tau_plus=nan"),
        (0.5, 0.0, r"tau_minus=0 would make every negative logit .* below log K; 'off' is tau_minus = pi"),
        (0.5, torch.tensor([1.0, 0.0, 1.0]), "tau_minus=0"),
        (torch.tensor([0.1, 0.2, 30.0]), PI, "tau_plus=30"),
        (PI + 1e-6, PI, r"tau_plus=3.141593654.* radians$"),
    ],
)
def test_angles_that_are_refused(plus: float | Tensor, minus: float | Tensor, message: str) -> None:
    features, labels, frame = batch(6, 4, 3)
    with pytest.raises(ConfigError, match=message):
        hinge_logits(features, labels, frame, plus, minus)
    with pytest.raises(ConfigError, match=message):
        HingeCE(frame, plus, minus)
    if "tau_plus" in message:
        for refused in (lambda: ConeGate(frame, plus), lambda: inside_cone(features, labels, frame, plus)):
            with pytest.raises(ConfigError, match=message):
                refused()


def test_what_tau_minus_zero_would_do() -> None:
    """The reason given above: every negative logit is at least the positive one, whatever the features."""
    features, labels, frame = batch(50, 8, 5)
    nearly = hinge_logits(features, labels, frame, 0.0, 1e-9)
    assert cross_entropy(nearly, labels, reduction="none").min() >= math.log(5) - 1e-6


@pytest.mark.parametrize(
    ("plus", "minus", "message"),
    [
        (torch.zeros(4), PI, r"tau_plus has shape \(4,\), which does not fit a frame of 3 classes"),
        (0.5, torch.ones(2), r"tau_minus has shape \(2,\)"),
        (0.5, torch.ones(3, 2), r"tau_minus has shape \(3, 2\)"),
        (0.5, torch.ones(2, 3), r"tau_minus has shape \(2, 3\)"),
    ],
)
def test_thresholds_that_do_not_fit_the_frame(plus: float | Tensor, minus: float | Tensor, message: str) -> None:
    features, labels, frame = batch(6, 4, 3)
    with pytest.raises(ConfigError, match=message):
        HingeCE(frame, plus, minus)
    with pytest.raises(ConfigError, match=message):
        hinge_logits(features, labels, frame, plus, minus)


def test_pi_is_off_in_any_precision_of_the_module() -> None:
    features, labels, frame = collapsed(10, 16)
    for module in (HingeCE(frame, 0.0), HingeCE(frame, 0.0).bfloat16(), HingeCE(frame, 0.0).half()):
        logits = module.logits(features)
        assert torch.equal(module.objective.transforms[0](features, labels, logits), logits)


@pytest.mark.parametrize("alpha", [-0.1, 1.0, math.nan])
def test_smoothing_out_of_range(alpha: float) -> None:
    with pytest.raises(ConfigError, match="label_smoothing"):
        HingeCE(simplex_etf(3, 4), 0.5, label_smoothing=alpha)
