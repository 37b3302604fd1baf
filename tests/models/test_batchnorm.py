"""Batch norm over two gloo processes against torch's own on the joined batch, in float64."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from divfeat.models import build_extractor, convert_batchnorm
from divfeat.models.batchnorm import SyncedBatchNorm1d, SyncedBatchNorm2d

WORLD = 2
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def net() -> nn.Module:
    """Two batch norms in a row, so that the second's input gradient passes through the first's statistics."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.Flatten(2)
    )


@dataclass
class Case:
    """A module, the shape of one sample, how many of the samples each rank holds, and how they are laid out."""

    build: Callable[[], nn.Module]
    sample: tuple[int, ...]
    sizes: tuple[int, int] = (5, 3)
    memory_format: torch.memory_format = torch.contiguous_format
    offset: float = 3.0
    dtype: torch.dtype = torch.float64


CASES = {
    "2d": Case(lambda: nn.BatchNorm2d(4), (4, 3, 2)),
    "1d": Case(lambda: nn.BatchNorm1d(4), (4,)),
    "1d with length": Case(lambda: nn.BatchNorm1d(4), (4, 6)),
    "channels last": Case(lambda: nn.BatchNorm2d(4), (4, 3, 2), memory_format=torch.channels_last),
    "one sample": Case(lambda: nn.BatchNorm1d(4), (4,), sizes=(7, 1)),
    "empty rank": Case(lambda: nn.BatchNorm2d(4), (4, 3, 2), sizes=(0, 8)),
    "cumulative": Case(lambda: nn.BatchNorm2d(4, momentum=None), (4, 3, 2)),
    "not affine": Case(lambda: nn.BatchNorm2d(4, affine=False), (4, 3, 2)),
    "untracked": Case(lambda: nn.BatchNorm2d(4, track_running_stats=False), (4, 3, 2)),
    "net": Case(net, (3, 7, 7)),
    "far from zero": Case(lambda: nn.BatchNorm2d(4), (4, 3, 2), offset=2000.0, dtype=torch.float32),
}


def seeded(case: Case) -> tuple[nn.Module, Tensor, Tensor]:
    """Module with random weights, two joined batches, and a cotangent for each output."""
    torch.manual_seed(0)
    module = case.build().to(case.dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    total = sum(case.sizes)
    images = torch.randn(2, total, *case.sample, dtype=case.dtype) * 2 + case.offset
    images[:, : total // 2] += 1  # the ranks' own statistics differ from the union's
    with torch.no_grad():
        shape = copy.deepcopy(module)(images[0]).shape
    return module, images, torch.randn(2, *shape, dtype=case.dtype)


def steps(module: nn.Module, images: Tensor, cotangents: Tensor, case: Case) -> dict[str, Any]:
    """Two training steps and an evaluation; the loss is not linear in the output."""
    outputs, input_gradients = [], []
    for batch, cotangent in zip(images, cotangents, strict=True):
        x = batch.contiguous(memory_format=case.memory_format) if batch.ndim == 4 else batch.clone()
        x.requires_grad_()
        y = module(x)
        (y.square() * cotangent + y).sum().backward()
        outputs.append(y.detach())
        input_gradients.append(x.grad)
    with torch.no_grad():
        evaluated = copy.deepcopy(module).eval()(images[0])
    return {
        "outputs": outputs,
        "input_gradients": input_gradients,
        "parameter_gradients": {name: p.grad for name, p in module.named_parameters()},
        "state": dict(module.state_dict()),
        "evaluated": evaluated,
    }


def rank_case(rank: int, case: Case) -> dict[str, Any]:
    module, images, cotangents = seeded(case)
    start = sum(case.sizes[:rank])
    mine = slice(start, start + case.sizes[rank])
    messages = 0
    real = dist.all_reduce

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal messages
        messages += 1
        return real(*args, **kwargs)

    dist.all_reduce = counted
    try:
        result = steps(convert_batchnorm(module), images[:, mine], cotangents[:, mine], case)
    finally:
        dist.all_reduce = real
    result["messages"] = messages
    return result


def rank_autocast() -> dict[str, Any]:
    torch.manual_seed(dist.get_rank())
    extractor = convert_batchnorm(build_extractor("digits_cnn", image_shape=(1, 8, 8)))
    extractor.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        after = extractor(torch.rand(6, 1, 8, 8)).after
    after.float().square().mean().backward()
    layer = SyncedBatchNorm2d(3)
    x = torch.randn(64, 3, 8, 8) + 20
    result = {"layer": layer(x.bfloat16()).float(), "x": x.bfloat16().float(), "var": layer.running_var}
    finite = all(bool(p.grad.isfinite().all()) for p in extractor.parameters())
    return result | {"finite": finite, "state": dict(extractor.state_dict())}


def ddp_model() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = build_extractor("compact", image_shape=(3, 16, 16), projector_dim=3).double()
    return model, torch.rand(8, 3, 16, 16, dtype=torch.float64), torch.arange(8) % 3


def rank_ddp(rank: int) -> dict[str, Any]:
    model, images, labels = ddp_model()
    wrapped = nn.parallel.DistributedDataParallel(convert_batchnorm(model))
    mine = slice(4 * rank, 4 * rank + 4)
    nn.functional.cross_entropy(wrapped(images[mine]).after, labels[mine]).backward()
    return {"gradients": [p.grad for p in model.parameters()], "state": dict(model.state_dict())}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    try:
        results: dict[str, Any] = {name: rank_case(rank, case) for name, case in CASES.items()}
        results["autocast"] = rank_autocast()
        results["ddp"] = rank_ddp(rank)
        torch.save(results, f"{folder}/{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("gloo")
    mp.spawn(worker, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.dtype == torch.float64])
def test_two_ranks_equal_one_process_on_the_joined_batch(name: str, ranks: list[dict[str, Any]]) -> None:
    case = CASES[name]
    module, images, cotangents = seeded(case)
    reference = steps(module, images, cotangents, case)
    got = [rank[name] for rank in ranks]
    for key in ("outputs", "input_gradients"):
        for step in range(2):
            joined = torch.cat([rank[key][step] for rank in got])
            torch.testing.assert_close(joined, reference[key][step], **TOLERANCE)
    for parameter, expected in reference["parameter_gradients"].items():
        shares = sum(rank["parameter_gradients"][parameter] for rank in got)
        torch.testing.assert_close(shares, expected, **TOLERANCE)
    for rank in got:
        assert list(rank["state"]) == list(reference["state"])
        for buffer, expected in reference["state"].items():
            torch.testing.assert_close(rank["state"][buffer], expected, **TOLERANCE)
    if name != "untracked":  # in evaluation without statistics every rank normalises by its own batch, as torch does
        joined = torch.cat([rank["evaluated"] for rank in got])
        torch.testing.assert_close(joined, reference["evaluated"], **TOLERANCE)


@pytest.mark.parametrize(("name", "layers"), [("2d", 1), ("net", 2)])
def test_one_message_forward_and_one_backward(name: str, layers: int, ranks: list[dict[str, Any]]) -> None:
    assert [rank[name]["messages"] for rank in ranks] == [2 * 2 * layers] * WORLD  # two steps, forward and backward


def test_channels_last_stays_channels_last(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        for tensor in rank["channels last"]["outputs"] + rank["channels last"]["input_gradients"]:
            assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_float32_statistics_survive_a_large_mean(ranks: list[dict[str, Any]]) -> None:
    case = CASES["far from zero"]  # E[x^2] - E[x]^2 in float32 would be off by tens of per cent at this offset
    module, images, cotangents = seeded(case)
    exact = steps(module.double(), images.double(), cotangents.double(), case)
    for rank in ranks:
        got = rank["far from zero"]["state"]["running_var"].double()
        torch.testing.assert_close(got, exact["state"]["running_var"], rtol=1e-5, atol=0)


def test_bf16_autocast_is_finite_with_float32_statistics(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["autocast"]["finite"]
        assert {t.dtype for n, t in rank["autocast"]["state"].items() if "running" in n} == {torch.float32}
    joined = torch.cat([rank["autocast"]["x"] for rank in ranks])
    expected = nn.BatchNorm2d(3)
    y = expected(joined)
    # Sums in bfloat16 would miss a standard deviation of 1 at a mean of 20 altogether.
    torch.testing.assert_close(ranks[0]["autocast"]["var"], expected.running_var, rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.cat([rank["autocast"]["layer"] for rank in ranks]), y, rtol=2**-7, atol=1e-2)


def test_data_parallel_gradients_are_the_single_process_ones(ranks: list[dict[str, Any]]) -> None:
    model, images, labels = ddp_model()
    nn.functional.cross_entropy(model(images).after, labels).backward()
    for rank in ranks:
        for got, parameter in zip(rank["ddp"]["gradients"], model.parameters(), strict=True):
            torch.testing.assert_close(got, parameter.grad, **TOLERANCE)
        for name, expected in model.state_dict().items():
            torch.testing.assert_close(rank["ddp"]["state"][name], expected, **TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_without_a_process_group_it_is_exactly_torchs(name: str) -> None:
    case = CASES[name]
    module, images, cotangents = seeded(case)
    converted = convert_batchnorm(copy.deepcopy(module))
    expected, got = steps(module, images, cotangents, case), steps(converted, images, cotangents, case)
    for key in ("outputs", "input_gradients"):
        assert all(torch.equal(a, b) for a, b in zip(expected[key], got[key], strict=True))
    assert all(torch.equal(value, got["state"][key]) for key, value in expected["state"].items())


def test_conversion_keeps_parameters_buffers_keys_and_mode() -> None:
    class Custom(nn.BatchNorm2d):
        pass

    model = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm1d(2)), Custom(3), nn.LayerNorm(3)).eval()
    tensors = {name: id(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    keys = list(model.state_dict())
    assert convert_batchnorm(model) is model
    assert {name: id(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]} == tensors
    assert list(model.state_dict()) == keys
    assert [type(model[0]), type(model[1][0]), type(model[2])] == [SyncedBatchNorm2d, SyncedBatchNorm1d, Custom]
    assert not any(layer.training for layer in model.modules())
    assert isinstance(convert_batchnorm(nn.BatchNorm1d(2)), SyncedBatchNorm1d)
    assert type(convert_batchnorm(model)[0]) is SyncedBatchNorm2d
