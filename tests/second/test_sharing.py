"""One checkpoint for all that share a first stage; a second stage goes on from its own; ranks do it together."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from divfeat.data.batches import Batch, Batches
from divfeat.experiment import ExperimentResult, run
from divfeat.methods import METHODS
from divfeat.second import stage
from divfeat.stages import first_stage_done, remove_stages, second_key, stage_key
from tests.interruption import Killed
from tests.second.samples import config, data

WORLD = 2
SHORT = {"crt": {"second_epochs": 3}, "lws": {"second_epochs": 3}, "oltr": {"second_epochs": 3}}
#: Of long tails; `crm` is looked at in tests/test_tree_methods.py.
TWO_STAGES = [name for name, method in METHODS.items() if method.parts.second != "none" and not method.tree]
TRAINED = ["crt", "lws", "m2m", "oltr"]
#: Each does something else on several ranks: a frozen network, extraction, two networks, two rates.
ON_RANKS = ["crt", "ncm", "m2m", "oltr"]


def made(name: str, **changes: Any) -> Any:
    return config(
        method={"name": name, **SHORT.get(name, {}), **({"m2m_gamma": 0.1} if name == "m2m" else {})}, **changes
    )


def stable(result: ExperimentResult) -> list[dict[str, float]]:
    """A history without the clock."""
    return [{key: value for key, value in row.items() if key != "time"} for row in result.history]


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO_STAGES)
def test_a_second_run_trains_no_epoch_of_the_first_stage_and_scores_the_same_bits(name: str, tmp_path: Path) -> None:
    alone = run(made(name), data())
    ce = run(made("ce"), data(), stages=tmp_path)
    assert not first_stage_done(tmp_path, made(name))
    epochs: list[int] = []
    shared = run(made(name), data(), lambda epoch, metrics: epochs.append(epoch), stages=tmp_path)
    assert epochs == list(range(5, 5 + {"m2m": 5}.get(name, SHORT.get(name, {}).get("second_epochs", 0))))
    assert first_stage_done(tmp_path, made(name)) and first_stage_done(tmp_path, made("ce"))
    assert shared.metrics == alone.metrics
    assert stable(shared) == stable(alone)
    assert shared.history[:5] == ce.history  # read back, clock and all
    for found in ("train", "val"):
        assert torch.equal(shared.features[found].logits, alone.features[found].logits)
        assert torch.equal(shared.features[found].after, alone.features[found].after)
    assert torch.equal(shared.axes, alone.axes)
    again = run(made("ce"), data(), stages=tmp_path)
    assert again.metrics == ce.metrics  # what the second stage did left the first as it was


class CutBatches(Batches):
    """A kill after (epoch, step), for all streams of one run."""

    at: tuple[int, int]

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        for step, batch in enumerate(super().epoch(epoch, start_step), start_step + 1):
            yield batch
            if (epoch, step) == self.at:
                raise Killed


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("at", [(1, 2), (2, 1)])
def test_a_kill_in_the_second_stage_goes_on_from_there(
    name: str, at: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = (at[0] + 2, at[1]) if name == "m2m" else at  # where images are translated
    whole = run(made(name), data())
    with monkeypatch.context() as patch:
        patch.setattr(stage, "Batches", CutBatches)
        patch.setattr(CutBatches, "at", at, raising=False)
        with pytest.raises(Killed):
            run(made(name), data(), stages=tmp_path, checkpoint_seconds=0.0)
    assert (tmp_path / second_key(made(name)) / "checkpoint.pt").exists()
    epochs: list[int] = []
    resumed = run(made(name), data(), lambda epoch, metrics: epochs.append(epoch), stages=tmp_path)
    assert epochs[0] == 5 + at[0]
    assert resumed.metrics == whole.metrics
    assert stable(resumed) == stable(whole)
    assert torch.equal(resumed.features["val"].logits, whole.features["val"].logits)


@pytest.mark.parametrize(("shared", "left"), [(True, {"first"}), (False, set())])
def test_what_stays_of_a_run_that_has_ended(shared: bool, left: set[str], tmp_path: Path) -> None:
    two = made("crt")
    names = {stage_key(two): "first", second_key(two): "second"}
    for key in names:
        (tmp_path / key).mkdir()
    remove_stages(tmp_path, two, shared=shared)
    assert {names[folder.name] for folder in tmp_path.iterdir()} == left
    remove_stages(tmp_path, made("ce"), shared=True)
    assert len(list(tmp_path.iterdir())) == len(left)
    remove_stages(tmp_path, made("ce"), shared=False)
    assert list(tmp_path.iterdir()) == []


# --- several ranks --------------------------------------------------------------------------------------------------------


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    try:
        found: dict[str, Any] = {}
        for name in ON_RANKS:
            result = run(made(name), data(), stages=Path(folder) / "stages")
            logits = result.features["val"].logits
            found[name] = {"logits": logits, "history": stable(result), "metrics": result.metrics}
            dist.barrier()
        torch.save(found, f"{folder}/{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(worker, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_RANKS)
def test_two_ranks_do_what_one_process_does(ranks: list[dict[str, Any]], name: str) -> None:
    first, second = (rank[name] for rank in ranks)
    alone = run(made(name), data())
    assert torch.equal(first["logits"], second["logits"])
    epochs = len(alone.history)
    assert len(first["history"]) == len(second["history"]) == epochs
    for row, expected in zip(first["history"], stable(alone), strict=True):
        prefix = "train/" if "train/loss" in expected else "second/"
        for key in ("loss", "feature_norm"):
            assert row[prefix + key] == pytest.approx(expected[prefix + key], rel=2e-2)
    for key in ("val/accuracy", "val/accuracy_balanced"):  # 80 images: at most two on the other side
        assert first["metrics"][key] == pytest.approx(alone.metrics[key], abs=0.0251)
    assert second["metrics"].keys() == {key for key in first["metrics"] if key.startswith(("train/", "second/"))} - {
        "train/accuracy_eval"
    }
