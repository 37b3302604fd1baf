"""Frames against the ledger's JSON, read here without divfeat's readers."""

import json
import math

import numpy as np
import pandas as pd
import pytest

import divfeat
from divfeat.files import write_json
from tests.report.studies import Studied, completed, ended


def read(folder, key):
    return json.loads((folder / "runs" / key / "record.json").read_text())


def some_fail(job):
    """The third trial diverged, the fourth was pruned, the fifth never finished."""
    if job.phase == "search" and job.number in (2, 3, 4):
        if job.number == 4:
            return None
        return ended(
            job.experiment, *(("failed", "first line\nloss is NaN") if job.number == 2 else ("pruned", "rung"))
        )
    return completed(job.experiment)


@pytest.fixture(scope="module")
def tail(tmp_path_factory):
    return divfeat.open_study(
        Studied(tmp_path_factory.mktemp("runs") / "s", preset="digits-lt", record=some_fail).all().ledger.folder
    )


def test_trials_are_the_proposals_with_their_records(tail):
    frame = tail.trials
    files = sorted((tail.folder / "proposals").glob("*.json"))
    assert list(frame.index) == [json.loads(path.read_text())["number"] for path in files] == list(range(7))
    for path in files:
        proposal = json.loads(path.read_text())
        row = frame.loc[proposal["number"]]
        assert (row["name"], row["key"], row["release"]) == (
            proposal["name"],
            proposal["key"],
            proposal["params"]["release"],
        )
        for name in ("tau_major", "tau_minor"):
            assert row[name] == proposal["params"][name]
        if proposal["number"] == 4:
            assert row["status"] == "not finished" and math.isnan(row["val/accuracy"])
            continue
        record = read(tail.folder, proposal["key"])
        assert row["status"] == record["status"]
        metrics = {name: row[name] for name in frame.columns if "/" in name}
        if record["status"] == "completed":
            assert metrics == record["metrics"] and row["seconds"] == 3.0 and row["error"] == "" and row["feasible"]
        else:
            assert all(map(math.isnan, metrics.values())) and math.isnan(row["seconds"]) and not row["feasible"]
    assert frame["error"][2] == "loss is NaN"


def test_every_metric_is_a_float_whatever_is_missing(tail):
    for frame in (tail.trials, tail.runs, tail.confirmation, tail.epochs(), tail.classes):
        numbers = frame[[name for name in frame.columns if "/" in name or name == "tau_plus"]]
        assert numbers.shape[1] and (numbers.dtypes == np.float64).all()


def test_runs_are_everything_that_was_launched(tail):
    frame = tail.runs
    starts = {path.parent.name: json.loads(path.read_text()) for path in tail.folder.glob("runs/*/start.json")}
    assert set(frame.index) == set(starts) and frame.index.is_unique
    for key, start in starts.items():
        row = frame.loc[key]
        assert (row["phase"], row["name"], row["seed"]) == (start["phase"], start["name"], start["seed"])
        path = tail.folder / "runs" / key / "record.json"
        assert row["status"] == (json.loads(path.read_text())["status"] if path.exists() else "not finished")
    assert {"noise", "search", "select", "confirm"} <= set(frame["phase"])


def test_confirmation_has_a_row_a_method_and_seed(tail):
    frame = tail.confirmation
    methods = ["winner", *tail.config.protocol.baselines]
    assert list(dict.fromkeys(frame["method"])) == methods and len(frame) == 5 * len(methods)
    assert not frame.duplicated(["method", "seed"]).any()
    for _, row in frame.iterrows():
        record = read(tail.folder, row["key"])
        assert record["config"]["role"] == "confirm" and record["config"]["seed"] == row["seed"]
        assert {name: row[name] for name in record["metrics"]} == record["metrics"]
    assert {record["config"]["method"]["name"] for record in map(lambda key: read(tail.folder, key), frame["key"])} >= {
        "ce",
        "ce_etf",
    }


def test_epochs_are_the_histories_of_the_runs_asked_for(tail):
    keys = list(tail.trials["key"][:3])
    frame = tail.epochs(keys)
    assert list(dict.fromkeys(frame["key"])) == keys
    for key in keys:
        history = read(tail.folder, key)["history"]
        found = frame[frame["key"] == key]
        assert list(found["epoch"]) == [row["epoch"] for row in history]
        for name in history[0].keys() - {"epoch"}:
            assert list(found[name]) == [row[name] for row in history]
    assert set(tail.epochs()["key"]) == {path.parent.name for path in tail.folder.glob("runs/*/record.json")}


def test_epochs_of_a_run_without_a_record_are_its_events(tail):
    key = tail.trials["key"][4]
    path = tail.folder / "runs" / key / "events.jsonl"
    path.write_text('{"epoch": 0, "train/loss": 2.5}\n{"epoch": 1, "train/loss": 1.5}\n')
    try:
        assert list(tail.epochs([key])["train/loss"]) == [2.5, 1.5]
    finally:
        path.unlink()


def test_classes_are_those_of_the_records(tail):
    frame = tail.classes
    keys = {(row["method"], row["seed"]): row["key"] for _, row in tail.confirmation.iterrows()}
    for (method, seed), rows in frame.groupby(["method", "seed"]):
        found = read(tail.folder, keys[method, seed])["per_class"]
        for name in found[0]:
            assert list(rows[name]) == [row[name] for row in found]
    assert len(frame) == len(keys) * 6


def test_differences_are_winner_minus_baseline_of_the_records(tail):
    scores = tail.confirmation.pivot(index="seed", columns="method", values="test/accuracy_balanced")
    naive = (100 * scores.rsub(scores["winner"], axis=0)).drop(columns="winner")
    pd.testing.assert_frame_equal(tail.paired[list(naive)], naive, check_names=False)
    frame = tail.differences.set_index("baseline")
    assert list(frame.index) == list(tail.config.protocol.baselines) and set(frame["objective"]) == {"balanced"}
    for name in naive:
        row = frame.loc[name]
        assert row["mean"] == pytest.approx(naive[name].mean()) and row["pairs"] == 5 and row["unit"] == "points"
        assert row["sd"] == pytest.approx(naive[name].std(ddof=1))
        assert row["low"] <= row["mean"] <= row["high"]
        assert row["high"] - row["mean"] == pytest.approx(row["half_width"])
    report = {one.name: one.verdict for one in tail.summary.primary.verdict.comparisons}
    assert frame["verdict"].to_dict() == report


def test_group_differences_are_those_of_the_group_accuracies(tail):
    frame = tail.group_differences
    means = tail.confirmation.groupby("method")[
        [f"test/accuracy_{group}" for group in ("balanced", "major", "minor")]
    ].mean()
    sizes = {"balanced": 6, "major": int(sum(k > tail.config.data.boundary for k in (60, 50, 40, 35, 20, 10)))}
    sizes["minor"] = 6 - sizes["major"]
    for group in ("balanced", "major", "minor"):
        rows = frame[frame["group"] == group].set_index("baseline")
        assert set(rows["metric"]) == {f"test/accuracy_{group}"} and set(rows["classes"]) == {sizes[group]}
        for name in tail.config.protocol.baselines:
            expected = 100 * (means.loc["winner"] - means.loc[name])[f"test/accuracy_{group}"]
            assert rows["mean"][name] == pytest.approx(expected)


def test_a_study_that_has_only_begun_has_frames_without_rows(tmp_path):
    result = divfeat.open_study(Studied(tmp_path / "s").begin().ledger.folder)
    assert result.winner is None and result.model_uri is None and result.report is None
    assert result.verdict.startswith("No verdict")
    for frame in (
        result.trials,
        result.confirmation,
        result.differences,
        result.paired,
        result.classes,
        result.group_differences,
    ):
        assert len(frame) == 0
    assert {"key", "status"} <= {*result.trials.columns} and "verdict" in result.differences.columns
    assert len(result.runs) and "No verdict" in result._repr_html_()
    with pytest.raises(divfeat.DataError, match="has no winner yet"):
        _ = result.thresholds


def test_numbers_besides_angles_keep_their_names(tmp_path):
    """A searched part of the loss, and a parameter without a unit, stand beside the angles and are no degrees."""
    study = Studied(tmp_path / "s", preset="digits-lt", search={"family": "bent_curve"}).all()
    result = divfeat.open_study(study.ledger.folder)
    winner = result.winner
    assert set(winner.parameters) - set(winner.radians) == {"bend"} and set(winner.degrees) == set(winner.radians)
    assert result.trials["bend"].notna().all()
    for name, radians in winner.radians.items():
        assert winner.degrees[name] == pytest.approx(radians * 180 / math.pi)


def test_what_is_read_is_that_folder(tail, tmp_path):
    write_json(tmp_path / "study.json", {"format": 1})
    with pytest.raises(divfeat.DataError, match="has no 'identity' and no 'config'"):
        divfeat.open_study(tmp_path)
    with pytest.raises(divfeat.DataError, match="holds no study"):
        divfeat.open_study(tmp_path / "elsewhere")
