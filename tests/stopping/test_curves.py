"""Curves recorded by real trainings on digits: drawn alike each time, taken up where they stopped, every epoch measured."""

import shlex

import pytest

from divfeat import experiment as experiments
from divfeat.cli.early_stopping import main, parser
from divfeat.errors import ConfigError, DataError, NonFiniteError
from divfeat.files import read_json, write_json
from divfeat.stopping.curves import drawn, read_curves, record
from tests.search.samples import METRIC, make_study

STUDY = make_study(train={"epochs": 3}, probe={"strengths": [1.0]})


def test_draws_are_different_experiments_and_more_of_them_begin_alike():
    few, more = drawn(STUDY, 5), drawn(STUDY, 9)
    assert few == more[:5] and len({job.key for job in more}) == 9
    assert [job.number for job in more] == list(range(9)) and {job.experiment.seed for job in more} == {0}
    assert {job.experiment.method.release for job in more} <= set(STUDY.search.releases)
    assert drawn(STUDY.model_copy(update={"seed": 1}), 5)[0].key != few[0].key


def test_a_space_of_one_experiment_gives_no_two():
    with pytest.raises(ConfigError, match="--trials 2: the space of the search holds 1 experiments"):
        drawn(make_study(search={"family": "none"}), 2)


def test_rows_are_kept_and_only_what_is_missing_is_trained(tmp_path):
    place, said = tmp_path / "curves.json", []
    assert not record(STUDY, 2, place, "a line", stop_after=1e-9, say=said.append) and said == []
    assert record(STUDY, 1, place, "a line", say=said.append)
    first = read_json(place)["trials"]
    assert record(STUDY, 2, place, "a line", say=said.append) and len(said) == 2
    rows = read_json(place)["trials"]
    assert rows[:1] == first and [row["key"] for row in rows] == [job.key for job in drawn(STUDY, 2)]
    found = read_curves(place)
    assert found.epochs == 3 and found.objective == "fine_probe" and found.about["command"] == "a line"
    assert all(len(values) == 3 and all(0.2 < value <= 1 for value in values) for values in found.values.values())
    assert found.finished == found.values


def test_the_last_value_is_the_score_of_an_ordinary_training(tmp_path):
    record(STUDY, 1, tmp_path / "curves.json", "a line", say=lambda line: None)
    (values,) = read_curves(tmp_path / "curves.json").values.values()
    assert values[-1] == experiments.run(drawn(STUDY, 1)[0].experiment).metrics[METRIC]


def test_other_settings_are_not_mixed_in(tmp_path):
    write_json(tmp_path / "curves.json", {"identity": "other", "trials": []})
    with pytest.raises(ConfigError, match=r"holds curves of other settings \(identity other\); choose another --out"):
        record(STUDY, 1, tmp_path / "curves.json", "a line")


def test_what_diverges_keeps_its_epochs_so_far(tmp_path, monkeypatch):
    def run(config, data, heard, **settings):
        heard(0, {METRIC: 0.5})
        raise NonFiniteError("training loss became nan")

    monkeypatch.setattr(experiments, "run", run)
    said = []
    assert record(STUDY, 1, tmp_path / "curves.json", "a line", say=said.append)
    found = read_curves(tmp_path / "curves.json")
    assert list(found.values.values()) == [(0.5,)] and found.finished == {}
    assert "diverged after 1 epochs" in said[0] and found.about["rows"][0]["error"] == "training loss became nan"


def test_what_is_to_be_small_is_read_with_its_sign_turned(tmp_path):
    row = {"key": "a", "name": "a", "values": [3.0, 2.0]}
    known = {"format": 1, "objective": "log_norm", "direction": "minimize", "epochs": 2, "trials": [row]}
    write_json(tmp_path / "curves.json", known)
    assert read_curves(tmp_path / "curves.json").values == {"a": (-3.0, -2.0)}


def test_missing_or_foreign_files_are_told(tmp_path):
    with pytest.raises(DataError, match=r"is missing: `python studies/early_stopping\.py record` makes it"):
        read_curves(tmp_path / "curves.json")
    write_json(tmp_path / "curves.json", {"format": 9})
    with pytest.raises(DataError, match="format 9, this divfeat reads format 1"):
        read_curves(tmp_path / "curves.json")


def test_the_command_writes_the_line_that_made_the_file_without_its_chunks(tmp_path, capsys):
    line = ["record", "--set", "train.epochs=2", "--set", "probe.strengths=[1.0]", "--trials", "1", "--out"]
    place = tmp_path / "c.json"
    assert main([*line, str(place), "--stop-after", "1e-9"]) == 4
    assert main([*line, str(place), "--stop-after", "600"]) == 0
    command = read_json(place)["command"]
    assert shlex.split(command) == ["python", "studies/early_stopping.py", *line, str(place)]
    assert parser().parse_args(shlex.split(command)[2:]).trials == 1
    assert main([*line, str(place), "--set", "train.epochs=3"]) == 1
    assert "other settings" in capsys.readouterr().err
