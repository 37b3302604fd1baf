"""A trial once more: what a study's own record says, from its own configuration."""

from contextlib import contextmanager

import pytest
import torch

from divfeat import record as records
from divfeat.cli.console import DIFFERS, main
from divfeat.data.prepare import prepare
from divfeat.errors import DataError, NonFiniteError
from divfeat.experiment import run
from divfeat.files import read_json, write_json
from divfeat.search.rerun import rerun
from tests.report.studies import Studied

SMALL = {"train": {"epochs": 2, "warmup_epochs": 0}, "model": {"backbone": "digits_cnn"}}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A search of real runs on one thread, one of which diverged."""
    torch.set_num_threads(1)

    def record(job):
        config = job.experiment
        try:
            return records.completed(config, run(config, prepare(config.data, config.role), device="cpu"))
        except NonFiniteError as error:
            return records.ended("failed", config, str(error), "nan", [])

    return (
        Studied(tmp_path_factory.mktemp("runs") / "s", preset="digits-lt", record=record, **SMALL)
        .begin()
        .search((60.0,))
    )


def path_of(study, number):
    return study.ledger.run_folder(study.ledger.proposals()[number]["key"]) / "record.json"


@contextmanager
def recorded(study, number, **changes):
    """The trial's record with other entries, for a while."""
    path = path_of(study, number)
    content = read_json(path)
    write_json(path, content | changes)
    try:
        yield
    finally:
        write_json(path, content)


def test_it_gives_the_same_bits(study, tmp_path, capsys):
    number = max(study.ledger.proposals())
    before = sorted(study.ledger.folder.rglob("*"))
    assert main(["rerun", str(study.ledger.folder), str(number)]) == 0
    said = capsys.readouterr().out
    assert "epoch 2 of 2: loss" in said and "the same, bit for bit, in all" in said
    score = read_json(path_of(study, number))["metrics"]["val/accuracy_balanced"]
    assert f"val/accuracy_balanced: recorded {score:.17g}, now {score:.17g}" in said
    assert sorted(study.ledger.folder.rglob("*")) == before


def test_a_difference_is_told(study, capsys):
    number = max(study.ledger.proposals())
    metrics = read_json(path_of(study, number))["metrics"]
    with recorded(study, number, metrics=metrics | {"collapse/nc1": metrics["collapse/nc1"] * (1 + 1e-15)}):
        assert main(["rerun", str(study.ledger.folder), str(number)]) == DIFFERS
    said = capsys.readouterr().out
    assert "collapse/nc1: recorded" in said and f"1 of {len(metrics)} metrics differ" in said


def test_a_trial_that_diverged_does_so_again(study, capsys):
    number = max(study.ledger.proposals())
    config = read_json(path_of(study, number))["config"]
    config |= {"train": config["train"] | {"lr": 1e30}}
    with recorded(study, number, config=config, status="failed", error="diverged", metrics={}):
        assert main(["rerun", str(study.ledger.folder), str(number)]) == 0
    said = capsys.readouterr().out
    assert "recorded: failed: diverged; now: " in said and "again without metrics" in said


def test_a_pruned_trial_runs_to_its_end_and_has_nothing_to_compare_with(study, capsys):
    number = max(study.ledger.proposals())
    with recorded(study, number, status="pruned", error="stopped after 1 epochs", metrics={}):
        assert main(["rerun", str(study.ledger.folder), str(number)]) == 0
    said = capsys.readouterr().out
    assert "recorded: pruned: stopped after 1 epochs" in said and "no metrics to compare with" in said


def test_what_cannot_be_run_again_is_told(study, tmp_path):
    folder, numbers = study.ledger.folder, sorted(study.ledger.proposals())
    with pytest.raises(DataError, match=f"has no trial 999: it has {numbers[0]} to {numbers[-1]}"):
        rerun(folder, 999)
    with pytest.raises(DataError, match="holds no study"):
        rerun(tmp_path, 0)
    provenance = read_json(path_of(study, numbers[-1]))["provenance"] | {"split_hash": "of others"}
    with recorded(study, numbers[-1], provenance=provenance):
        with pytest.raises(DataError, match="was run on other images"):
            rerun(folder, numbers[-1])
        path_of(study, numbers[-1]).unlink()
        with pytest.raises(DataError, match=f"trial {numbers[-1]} .* has not ended"):
            rerun(folder, numbers[-1])
