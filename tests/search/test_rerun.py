"""A trial once more: what a study's own record says, from its own configuration."""

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
    content = read_json(path_of(study, number))
    changed = content["metrics"] | {"collapse/nc1": content["metrics"]["collapse/nc1"] * (1 + 1e-15)}
    write_json(path_of(study, number), content | {"metrics": changed})
    try:
        assert main(["rerun", str(study.ledger.folder), str(number)]) == DIFFERS
        said = capsys.readouterr().out
        assert "collapse/nc1: recorded" in said and f"1 of {len(changed)} metrics differ" in said
    finally:
        write_json(path_of(study, number), content)


def test_a_trial_that_diverged_does_so_again(study, capsys):
    number = max(study.ledger.proposals())
    content = read_json(path_of(study, number))
    config = content["config"] | {"train": content["config"]["train"] | {"lr": 1e30}}
    write_json(
        path_of(study, number), content | {"config": config, "status": "failed", "error": "diverged", "metrics": {}}
    )
    try:
        assert main(["rerun", str(study.ledger.folder), str(number)]) == 0
        said = capsys.readouterr().out
        assert "recorded: failed: diverged; now: " in said and "again without metrics" in said
    finally:
        write_json(path_of(study, number), content)


def test_a_pruned_trial_runs_to_its_end_and_has_nothing_to_compare_with(study, capsys):
    number = max(study.ledger.proposals())
    content = read_json(path_of(study, number))
    write_json(path_of(study, number), content | {"status": "pruned", "error": "stopped after 1 epochs", "metrics": {}})
    try:
        assert main(["rerun", str(study.ledger.folder), str(number)]) == 0
        said = capsys.readouterr().out
        assert "recorded: pruned: stopped after 1 epochs" in said and "no metrics to compare with" in said
    finally:
        write_json(path_of(study, number), content)


def test_what_cannot_be_run_again_is_told(study, tmp_path):
    folder, numbers = study.ledger.folder, sorted(study.ledger.proposals())
    with pytest.raises(DataError, match=f"has no trial 999: it has {numbers[0]} to {numbers[-1]}"):
        rerun(folder, 999)
    with pytest.raises(DataError, match="holds no study"):
        rerun(tmp_path, 0)
    content = read_json(path_of(study, numbers[-1]))
    other = content | {"provenance": content["provenance"] | {"split_hash": "of others"}}
    write_json(path_of(study, numbers[-1]), other)
    try:
        with pytest.raises(DataError, match="was run on other images"):
            rerun(folder, numbers[-1])
        path_of(study, numbers[-1]).unlink()
        with pytest.raises(DataError, match=f"trial {numbers[-1]} .* has not ended"):
            rerun(folder, numbers[-1])
    finally:
        write_json(path_of(study, numbers[-1]), content)
