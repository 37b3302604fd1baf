"""What each figure is given: every argument against the ledger's own files."""

import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from divfeat.config import MethodConfig
from divfeat.record import load_features
from divfeat.report import figures, lines
from divfeat.report.plots import draw
from divfeat.report.reading import read_summary
from divfeat.search import protocol
from divfeat.search.jobs import baseline, experiment
from divfeat.thresholds import ThresholdContext, resolve
from tests.report.studies import FINE, FINE_NAMES, TAIL, Studied, completed, ended

BASELINES = ("ce", "ce_no_projector", "ce_etf", "hinge_fixed")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    study = Studied(tmp_path_factory.mktemp("runs") / "whole", protocol={"margin": 0.7}).all()
    return study, read_summary(study.ledger.folder)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """(summary) -> figure's name -> what each of its functions' calls was given; nothing is drawn."""
    calls = []

    def spy(name, signature):
        def call(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            path = Path(bound.arguments["path"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            calls.append((path.stem, name, bound.arguments))
            return "caption"

        return call

    for name in figures.__all__:
        monkeypatch.setattr(figures, name, spy(name, inspect.signature(getattr(figures, name))))

    def run(summary):
        calls.clear()
        plots = draw(summary, tmp_path / "figures")
        assert list(plots) == [stem for stem, _, _ in calls]
        return {stem: (name, given) for stem, name, given in calls}

    return run


def records(study, name):
    """Of the confirmation of a method."""
    method = protocol.confirmed_methods(study.trained, study.winner["winner"])[name]
    made = protocol.confirmation_experiments(study.trained, method, study.winner["strengths"])
    return [study.ledger.record(config.key) for config in made]


def on_validation(study, method, metric):
    made = [experiment(study.trained, method, seed) for seed in protocol.select_seeds(study.trained)]
    return [study.ledger.record(config.key)["metrics"][metric] for config in made]


def test_confirmation(whole, drawn):
    _, summary = whole
    name, given = drawn(summary)["confirmation"]
    assert name == "confirmation" and given["margin"] == 0.7
    assert given["comparisons"] == {one.name: vars(one) for one in summary.primary.verdict.comparisons}


def test_thresholds(whole, drawn):
    study, summary = whole
    release = study.winner["winner"]["method"]["release"]
    angles = protocol.grid_angles(study.trained)
    methods = [protocol.grid_method(study.trained, angle, release) for angle in angles]
    calls = drawn(summary)
    name, given = calls["accuracy_by_threshold"]
    assert name == "accuracy_by_threshold"
    assert list(given["tau_plus"]) == angles
    expected = [on_validation(study, method, "probe/fine_top1") for method in methods]
    np.testing.assert_allclose(given["accuracy"], 100 * np.array(expected))
    assert list(given["baseline_accuracy"]) == list(BASELINES)
    for key, values in given["baseline_accuracy"].items():
        expected = on_validation(study, baseline(key, study.config), "probe/fine_top1")
        np.testing.assert_allclose(values, 100 * np.array(expected))
    assert given["as_good"] == summary.grid.interval and given["as_good_note"] == ""
    assert given["method"] == f"HingeCE ({release})" and given["metric"] == "validation fine-probe accuracy"

    name, given = calls["diversity_by_threshold"]
    assert name == "diversity_by_threshold"
    assert list(given["tau_plus"]) == angles
    for argument, metric in (("nc1", "collapse/nc1"), ("numerical_rank", "collapse/numerical_rank")):
        assert given[argument].tolist() == [on_validation(study, method, metric) for method in methods]
    for key, (nc1, rank) in given["baseline_diversity"].items():
        method = baseline(key, study.config)
        assert nc1.tolist() == on_validation(study, method, "collapse/nc1")
        assert rank.tolist() == on_validation(study, method, "collapse/numerical_rank")


def test_cosines(whole, drawn):
    study, summary = whole
    name, given = drawn(summary)["cosines"]
    assert name == "cosines_over_epochs"
    assert list(given["methods"]) == [f"winner ({study.winner['winner']['name']})", *BASELINES]
    for key, curves in zip(("winner", *BASELINES), given["methods"].values(), strict=True):
        histories = [record["history"] for record in records(study, key)]
        assert curves["epoch"] == [1, 2, 3]
        assert curves["own"] == [[row["train/positive_cosine"] for row in history] for history in histories]
        assert curves["other"] == [[row["train/negative_cosine"] for row in history] for history in histories]


def test_cosines_of_a_seed_that_failed_are_missing(tmp_path, drawn):
    def record(job):
        failed = job.phase == "confirm" and job.name == "ce" and job.experiment.seed == 2003
        return ended(job.experiment, "failed", "no") if failed else completed(job.experiment)

    Studied(tmp_path / "s", record=record).all()
    _, given = drawn(read_summary(tmp_path / "s"))["cosines"]
    assert np.isnan(given["methods"]["ce"]["own"]).all(axis=1).sum() == 1
    assert np.shape(given["methods"]["ce"]["other"]) == (5, 3)


@pytest.mark.parametrize("part", ["train", "test"])
def test_features(whole, drawn, part):
    study, summary = whole
    name, given = drawn(summary)[f"features_{part}"]
    assert name == "feature_projection"
    assert list(given["panels"]) == ["ce", "ce_etf", f"winner ({study.winner['winner']['name']})"]
    for key, panel in zip(("ce", "ce_etf", "winner"), given["panels"].values(), strict=True):
        path = study.ledger.run_folder(records(study, key)[0]["key"]) / "features.parquet"
        np.testing.assert_array_equal(panel["features"], load_features(path, part)["feature"])
        np.testing.assert_array_equal(panel["fine"], FINE)
        np.testing.assert_array_equal(panel["coarse"], FINE // 2)
    assert given["coarse_names"] == {k: f"class {k}" for k in range(3)}
    assert given["fine_names"] == dict(enumerate(FINE_NAMES))


def test_records_without_fine_names_fall_back_on_numbers(tmp_path, drawn):
    def record(job):
        made = completed(job.experiment)
        del made["provenance"]["fine_names"]
        return made

    Studied(tmp_path / "s", record=record).all()
    calls = drawn(read_summary(tmp_path / "s"))
    assert calls["features_test"][1]["fine_names"] == {}
    assert calls["gain_by_class"][1]["class_names"] == [f"class {k}" for k in range(6)]


def by_class(study, name, array, owner):
    """[K, S] percent, by a loop over the files."""
    found = []
    for record in records(study, name):
        right = np.load(study.ledger.run_folder(record["key"]) / "correct.npz")[array]
        found.append([100 * right[owner == k].mean() for k in range(owner.max() + 1)])
    return np.array(found).T


def test_gain_of_each_fine_class_in_the_probe(whole, drawn):
    study, summary = whole
    name, given = drawn(summary)["gain_by_class"]
    assert name == "gain_by_class"
    np.testing.assert_allclose(given["winner"], by_class(study, "winner", "fine_probe", FINE))
    np.testing.assert_allclose(given["baseline"], by_class(study, "ce", "fine_probe", FINE))
    assert given["class_names"] == FINE_NAMES and given["baseline_name"] == "ce"
    assert given["counts"] is None and given["boundary"] is None
    assert given["score"] == "accuracy of the fine probe"


def test_gain_of_each_class_under_a_tail(tmp_path, drawn):
    study = Studied(tmp_path / "s", preset="digits-lt", data={"boundary": 25}).all()
    calls = drawn(read_summary(tmp_path / "s"))
    _, given = calls["gain_by_class"]
    for key, argument in (("winner", "winner"), ("ce", "baseline")):
        rows = [[row["accuracy"] for row in record["per_class"]] for record in records(study, key)]
        np.testing.assert_allclose(given[argument], 100 * np.array(rows).T)
    assert given["counts"].tolist() == TAIL and given["boundary"] == 25
    assert given["class_names"] == [f"class {k}" for k in range(6)]
    assert given["score"] == "accuracy of the classifier"

    name, given = calls["two_thresholds"]
    assert name == "two_thresholds"
    release = study.winner["winner"]["method"]["release"]
    rows = [row for row in study.ledger.proposals().values() if row["params"]["release"] == release]
    assert given["tau_first"] == [row["params"]["tau_major"] for row in rows]
    assert given["tau_second"] == [row["params"]["tau_minor"] for row in rows]
    values = [study.ledger.record(row["key"])["metrics"]["val/accuracy_balanced"] for row in rows]
    np.testing.assert_allclose(given["objective"], 100 * np.array(values))
    assert given["names"] == ("τ⁺ of major classes", "τ⁺ of minor classes") and given["besides"] == ()


def test_the_plane_of_a_family_of_two_angles_and_another_number(tmp_path, drawn):
    """As of `cifar10-lt`, whose boundary is searched with them."""
    search = {"family": "free_boundary", "own": ["closed_last"]}
    study = Studied(tmp_path / "s", preset="digits-lt", search=search).begin().search()
    _, given = drawn(read_summary(tmp_path / "s"))["two_thresholds"]
    first, *_ = study.trained.search.releases
    rows = [row["params"] for row in study.ledger.proposals().values() if row["params"]["release"] == first]
    assert given["tau_first"] == [row["tau_major"] for row in rows] and len(rows) > 1
    assert given["tau_second"] == [row["tau_minor"] for row in rows]
    assert given["besides"] == ("minor_share", "closed_last")


def test_the_angles_that_won_against_class_count(tmp_path, drawn):
    study = Studied(tmp_path / "s", preset="digits-lt", data={"boundary": 25}, search={"family": "per_class"}).all()
    name, given = drawn(read_summary(tmp_path / "s"))["angles_by_count"]
    assert name == "angles_by_count"
    context = ThresholdContext(torch.tensor(TAIL), boundary=25)

    def angles(row):
        return resolve(MethodConfig.model_validate(row["method"]).thresholds.spec(), context).tolist()

    winner = study.winner["winner"]
    assert given["counts"].tolist() == TAIL and given["boundary"] == 25
    assert list(given["tau_plus"]) == angles(winner)
    expected = {row["name"]: angles(row) for row in study.winner["candidates"] if row["key"] != winner["key"]}
    assert expected and given["others"] == expected
    assert given["name"] == f"winner ({winner['name']})"


def test_no_angles_against_counts_where_neither_differs(whole, tmp_path, drawn):
    assert "angles_by_count" not in drawn(whole[1])
    Studied(tmp_path / "s", search={"family": "each_3"}).all()  # as many images of every class
    assert "angles_by_count" not in drawn(read_summary(tmp_path / "s"))


def test_accuracy_of_each_group_against_its_threshold(tmp_path, drawn):
    study = Studied(tmp_path / "s", preset="digits-lt").all()
    name, given = drawn(read_summary(tmp_path / "s"))["groups_by_threshold"]
    assert name == "group_accuracy_by_threshold"
    assert list(given["tau_plus"]) == list(given["accuracy"]) == ["major", "minor"]
    rows = study.ledger.proposals().values()
    for group in ("major", "minor"):
        assert given["tau_plus"][group] == [row["params"][f"tau_{group}"] for row in rows]
        metric = f"val/accuracy_{group}"
        values = [study.ledger.record(row["key"])["metrics"][metric] for row in rows]
        np.testing.assert_allclose(given["accuracy"][group], 100 * np.array(values))
        for key, points in given["baseline_accuracy"][group].items():
            expected = on_validation(study, baseline(key, study.config), metric)
            np.testing.assert_allclose(points, 100 * np.array(expected))
    assert list(given["baseline_accuracy"]["major"]) == list(BASELINES)
    assert not given["mean"]


@pytest.mark.parametrize("family", ["free_boundary", "count_curve"])
def test_accuracy_of_each_group_against_the_mean_angle_of_its_classes(family, tmp_path, drawn):
    """As of `cifar10-lt`: its trials draw other groups than those whose accuracy is recorded."""
    study = (
        Studied(tmp_path / "s", preset="digits-lt", data={"boundary": 25}, search={"family": family}).begin().search()
    )
    _, given = drawn(read_summary(tmp_path / "s"))["groups_by_threshold"]
    assert given["mean"] and list(given["tau_plus"]) == ["major", "minor"]
    context = ThresholdContext(torch.tensor(TAIL), boundary=25)
    for place, row in enumerate(study.ledger.proposals().values()):
        spec = {name: value for name, value in row["params"].items() if name != "release"}
        angles = resolve({"family": family, **spec}, context)
        for group in ("major", "minor"):
            classes = [k for k, n in enumerate(TAIL) if (n <= 25) == (group == "minor")]
            expected = sum(float(angles[k]) for k in classes) / len(classes)
            assert given["tau_plus"][group][place] == pytest.approx(expected, abs=1e-9)


def test_what_groups_gain_and_lose_in_every_trial(tmp_path, drawn):
    rules = {"baselines": ["ce", "ce_etf", "ldam"], "tune": True}
    study = Studied(tmp_path / "s", preset="digits-lt", protocol=rules)
    study.begin().search().tune(
        "ldam", {"margin": 0.3, "scale": 16.0}, {"margin": 0.5, "scale": 30.0}
    ).select().confirm()
    name, given = drawn(read_summary(tmp_path / "s"))["group_tradeoff"]
    assert name == "group_tradeoff"

    def of_trials(subject):
        records = [study.ledger.record(row["key"])["metrics"] for row in study.ledger.proposals(subject).values()]
        return [[100 * found[f"val/accuracy_{group}"] for found in records] for group in ("major", "minor")]

    assert {method: list(pair) for method, pair in given["trials"].items()} == {
        "thresholds of hinge_ce": of_trials(""),
        "ldam": of_trials("ldam"),
    }
    assert len(of_trials("ldam")[0]) == 2
    assert list(given["means"]) == ["ce", "ce_etf"]
    for place, group in enumerate(("major", "minor")):
        expected = on_validation(study, MethodConfig(name="ce"), f"val/accuracy_{group}")
        np.testing.assert_allclose(given["means"]["ce"][place], 100 * np.array(expected))
    boundary = study.config.data.boundary
    assert given["sizes"] == (sum(n > boundary for n in TAIL), sum(n <= boundary for n in TAIL))


def test_what_cones_held_of_the_loss_against_the_score(tmp_path, drawn):
    study = Studied(tmp_path / "s", preset="digits-lt").begin().search()
    name, given = drawn(read_summary(tmp_path / "s"))["score_by_held_loss"]
    assert name == "score_by_held_loss"
    told, scores, releases, without = [], [], [], []
    for row in study.ledger.proposals().values():
        found = study.ledger.record(row["key"])
        score = 100 * found["metrics"]["val/accuracy_balanced"]
        if row["params"]["tau_major"] == row["params"]["tau_minor"] == 0:
            without.append(score)
            continue
        parts = [sum(epoch[f"train/cross_entropy{end}"] for epoch in found["history"]) for end in ("_inside", "")]
        told.append(100 * parts[0] / parts[1])
        scores.append(score)
        releases.append(row["params"].get("release"))
    np.testing.assert_allclose(given["held"], told)
    np.testing.assert_allclose(given["scores"], scores)
    assert given["releases"] == releases and len(told) > 2 and max(told) > 0
    np.testing.assert_allclose(given["coneless"], without)
    assert len(without) == 1 and (given["metric"], given["suffix"]) == ("validation balanced accuracy", " (%)")


def test_records_that_do_not_tell_the_held_loss_have_no_figure_of_it(tmp_path, drawn):
    def older(job):
        found = completed(job.experiment)
        for epoch in found["history"]:
            del epoch["train/cross_entropy"], epoch["train/cross_entropy_inside"]
        return found

    Studied(tmp_path / "s", preset="digits-lt", record=older).begin().search()
    assert "score_by_held_loss" not in drawn(read_summary(tmp_path / "s"))


def test_no_trade_between_groups_without_groups(whole, drawn):
    assert "group_tradeoff" not in drawn(whole[1])


def of_classes(study, name, column):
    """[K, S] of the confirmation."""
    return np.array([[row[column] for row in record["per_class"]] for record in records(study, name)]).T


def test_accuracy_gain_and_collapse_against_class_count(tmp_path, drawn):
    study = Studied(tmp_path / "s", preset="digits-lt", data={"boundary": 25}).all()
    summary = read_summary(tmp_path / "s")
    calls = drawn(summary)
    for stem in ("accuracy_by_count", "gain_by_count", "collapse_by_count"):
        name, given = calls[stem]
        assert name == stem and given["counts"].tolist() == TAIL and given["name"] == summary.title("winner")
        found = [{group: mask.tolist() for group, mask in part.items()} for part in given["partitions"]]
        assert found == [
            {"major": [n > 25 for n in TAIL], "minor": [n <= 25 for n in TAIL]},
            {"medium": [n >= 20 for n in TAIL], "few": [n < 20 for n in TAIL]},
        ]
    accuracy, gain, collapse = (calls[f"{what}_by_count"][1] for what in ("accuracy", "gain", "collapse"))
    assert accuracy["class_names"] == gain["class_names"] == [f"class {k}" for k in range(6)]
    assert list(accuracy["accuracy"]) == ["winner", *BASELINES]
    for name, table in accuracy["accuracy"].items():
        np.testing.assert_allclose(table, 100 * of_classes(study, name, "accuracy"))
    best = max(BASELINES, key=lambda name: study.confirmed(name, "balanced").mean())
    assert best != "ce_etf" and list(gain["gain"]) == ["ce_etf", best]
    for name, table in gain["gain"].items():
        expected = of_classes(study, "winner", "accuracy") - of_classes(study, name, "accuracy")
        np.testing.assert_allclose(table, 100 * expected)
    columns = ("cdnv", "numerical_rank", "positive_cosine", "feature_norm")
    for values, column in zip(collapse["measures"].values(), columns, strict=True):
        assert list(values) == ["winner", "ce_etf"]
        for name, table in values.items():
            np.testing.assert_allclose(table, of_classes(study, name, column))


def test_records_of_an_older_divfeat_lack_the_collapse_of_each_class(tmp_path, drawn):
    def record(job):
        found = completed(job.experiment)
        for row in found["per_class"]:
            for column in ("cdnv", "numerical_rank", "positive_cosine", "feature_norm"):
                del row[column]
        return found

    Studied(tmp_path / "s", preset="digits-lt", record=record).all()
    calls = drawn(read_summary(tmp_path / "s"))
    assert "accuracy_by_count" in calls and "collapse_by_count" not in calls


def test_a_class_of_one_image_and_a_lost_seed_are_gaps(tmp_path, drawn):
    def record(job):
        if job.phase == "confirm" and job.name == "winner" and job.experiment.seed == 2003:
            return ended(job.experiment, "failed", "no")
        found = completed(job.experiment)
        found["per_class"][5]["cdnv"] = None
        return found

    Studied(tmp_path / "s", preset="digits-lt", record=record).all()
    measures = drawn(read_summary(tmp_path / "s"))["collapse_by_count"][1]["measures"]
    gaps = np.isnan(next(iter(measures.values()))["winner"])
    assert gaps[5].all() and gaps[:, 3].all() and gaps.sum() == 10


def test_of_many_baselines_the_best_and_the_reference_have_a_line(tmp_path, drawn):
    names = ["ce", "focal", "ldam", "class_balanced", "ce_no_projector", "ce_etf", "balanced_softmax"]
    study = Studied(tmp_path / "s", preset="digits-lt", protocol={"baselines": names}).all()
    summary = read_summary(tmp_path / "s")
    given = {name: arguments for name, (_, arguments) in drawn(summary).items()}
    scores = {name: study.confirmed(name, "balanced").mean() for name in names if name != "ce_etf"}
    kept = {"ce_etf", *sorted(scores, key=scores.get)[-4:]}
    expected = [name for name in names if name in kept]
    assert list(given["accuracy_by_count"]["accuracy"]) == ["winner", *expected]
    assert list(given["groups_by_threshold"]["baseline_accuracy"]["major"]) == expected
    assert list(given["cosines"]["methods"]) == [summary.title("winner"), *expected]
    said = "; 5 of 7 baselines: ce_etf and the best"
    titles = {name: plot.title for name, plot in draw(summary, tmp_path / "figures").items()}
    assert {name for name in titles if titles[name].endswith(said)} == {
        "accuracy_by_count",
        "groups_by_threshold",
        "group_tradeoff",
        "cosines",
    }


def test_of_many_baselines_without_a_confirmation_the_best_on_validation_have_a_line(tmp_path):
    names = ["ce", "focal", "ldam", "class_balanced", "ce_no_projector", "ce_etf", "balanced_softmax"]
    study = Studied(tmp_path / "s", preset="digits-lt", protocol={"baselines": names}).begin().search().select()
    found = lines.on_validation(read_summary(tmp_path / "s"))
    scores = {
        name: np.mean(on_validation(study, baseline(name, study.config), "val/accuracy_balanced")) for name in names
    }
    others = sorted((name for name in names if name != "ce_etf"), key=scores.get)
    assert {runs.name for runs in found} == {"ce_etf", *others[-4:]}


def test_of_geometry_no_baseline_is_best_so_accuracy_ranks_them(tmp_path, drawn):
    study = Studied(tmp_path / "s", preset="digits-lt", search={"objectives": ["log_norm"]}).all()
    gains = list(drawn(read_summary(tmp_path / "s"))["gain_by_count"][1]["gain"])
    scores = {name: study.confirmed(name, "balanced").mean() for name in BASELINES}
    norms = {name: study.confirmed(name, "log_norm").mean() for name in BASELINES}
    best = max(scores, key=scores.get)
    assert gains == ["ce_etf", best] and best != max(norms, key=norms.get)


def test_no_figures_over_counts_where_classes_have_one_size(whole, drawn):
    assert not any("by_count" in name for name in drawn(whole[1]))


def test_a_map_over_the_ends_of_a_curve_but_not_over_what_is_no_angle(tmp_path, drawn):
    Studied(tmp_path / "s", preset="digits-lt", search={"family": "count_curve"}).begin().search()
    calls = drawn(read_summary(tmp_path / "s"))
    assert calls["two_thresholds"][1]["names"] == ("τ⁺ of the largest class", "τ⁺ of the smallest class")


def test_gain_over_the_seeds_there_are(tmp_path, drawn):
    def record(job):
        failed = job.phase == "confirm" and job.name == "ce" and job.experiment.seed == 2003
        return ended(job.experiment, "failed", "no") if failed else completed(job.experiment)

    Studied(tmp_path / "s", record=record).all()
    _, given = drawn(read_summary(tmp_path / "s"))["gain_by_class"]
    assert np.isnan(given["baseline"]).all(axis=0).tolist() == [False, False, False, True, False]
    assert np.isfinite(given["winner"]).all()


def test_search(tmp_path, drawn):
    def record(job):
        bad = job.phase == "search" and job.number == 2
        return ended(job.experiment, "failed", "no") if bad else completed(job.experiment)

    study = Studied(tmp_path / "s", record=record).begin().search()
    name, given = drawn(read_summary(tmp_path / "s"))["search"]
    assert name == "optimisation_history" and given["metric"] == "validation fine-probe accuracy"
    for trial, (number, row) in zip(given["trials"], study.ledger.proposals().items(), strict=True):
        found = study.ledger.record(row["key"])
        assert (trial["number"], trial["status"], trial["release"]) == (
            number,
            found["status"],
            row["params"]["release"],
        )
        if number == 2:
            assert trial["value"] is None
        else:
            assert math.isclose(trial["value"], 100 * found["metrics"]["probe/fine_top1"])
