import io
import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from divfeat import record as records
from divfeat.cli.flags import configure
from divfeat.cli.tau_search import parser
from divfeat.config import MethodConfig
from divfeat.data.prepare import prepare
from divfeat.experiment import run
from divfeat.files import read_json, write_json
from divfeat.report.build import build_report, main
from divfeat.report.commands import mlflow_command, optuna_command, study_command
from divfeat.report.outcomes import as_good_text
from divfeat.report.reading import read_summary
from divfeat.report.row import results_row
from divfeat.report.words import angle_text, fraction_of_pi, interval, signed
from divfeat.thresholds import ThresholdContext, resolve
from tests.report.studies import TAIL, Studied, completed, ended

#: A study whose report draws little.
NO_FIGURES = {"data": {"train_level": "fine"}, "protocol": {"grid_points": 0}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    study = Studied(tmp_path_factory.mktemp("runs") / "whole").all()
    return study, build_report(study.ledger.folder)


def printed(report):
    screen = io.StringIO()
    report.print(Console(file=screen, width=120, color_system=None))
    return screen.getvalue()


def text_of(report):
    return report.markdown.read_text(encoding="utf-8").replace("\\", "")


def test_files(whole):
    study, report = whole
    place = study.ledger.folder / "report"
    assert (report.markdown, report.html) == (place / "report.md", place / "report.html")
    assert set(report.files) == {"report.md", "report.html", "verdict.json"} | {
        f"figures/{name}.png"
        for name in (
            "confirmation",
            "accuracy_by_threshold",
            "diversity_by_threshold",
            "score_by_held_loss",
            "cosines",
            "features_train",
            "features_test",
            "gain_by_class",
            "search",
        )
    }
    assert all(path.is_file() and path == place / name for name, path in report.files.items())
    page = report.html.read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 9
    assert "missing" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    for link in re.findall(r"\]\((figures/[^)]+)\)", report.markdown.read_text(encoding="utf-8")):
        assert (place / link).is_file()


def test_the_verdict_comes_first_and_every_section_follows(whole):
    _, report = whole
    text = text_of(report)
    assert report.sentence == report.verdict.sentence
    assert text.index(report.sentence) < text.index("\n## ")
    headings = re.findall(r"^## (.+)$", text, flags=re.M)
    assert headings == [
        "Best thresholds",
        "Confirmation",
        "Noise and what could be detected",
        "Collapse and diversity of the features",
        "Class by class",
        "Search",
        "Learning rate and weight decay",
        "Reads of the test set",
        "Provenance",
        "What the runs say themselves",
        "Again, and further",
    ]


def test_numbers_in_the_report_are_those_of_the_study(whole):
    study, report = whole
    text = text_of(report)
    for name in ("ce", "ce_no_projector", "ce_etf", "hinge_fixed"):
        values = study.confirmed(name)
        cells = " | ".join(f"{value:.2f}" for value in values)
        assert f"| {name} | {cells} |" in text  # every seed, the losers' too
        assert f"| {name} | {values.mean():.2f} | {values.std(ddof=1):.2f} | 5 |" in text
        difference = study.confirmed("winner") - values
        assert f"| {name} | {signed(difference.mean())} |" in text
    angle = next(iter(study.winner["winner"]["method"]["thresholds"]["angles"].values()))
    assert f"{angle:.4f} | {math.degrees(angle):.1f}°" in text
    assert "25 in all" in text
    for hashed in (study.config.identity, "split of confirm", "split of search"):
        assert hashed in text
    for run_in in ("1234", "torch 2", "a processor", "abc"):
        assert run_in in text


def test_the_terminal_phase_follows_the_collapse_table(whole):
    _, report = whole
    text = text_of(report)
    said = "Terminal phase (training accuracy of at least 99.9 %): reached by 5 of 5 runs of winner"
    assert text.index("## Collapse") < text.index(said) < text.index("## Class by class")


def test_the_same_ledger_gives_the_same_files(whole):
    study, report = whole
    before = {name: path.read_bytes() for name, path in report.files.items()}
    stale = study.ledger.folder / "report" / "figures" / "two_thresholds.png"
    stale.write_bytes(b"of an earlier report")
    again = build_report(study.ledger.folder)
    assert {name: path.read_bytes() for name, path in again.files.items()} == before
    assert not stale.exists()


def test_what_is_printed(whole):
    study, report = whole
    text = printed(report)
    assert report.sentence in text.replace("\n", " ")
    winner = study.winner["winner"]
    (angle,) = winner["method"]["thresholds"]["angles"].values()
    assert angle_text(angle) in text and f"'{winner['method']['release']}'" in text
    for one in report.verdict.comparisons:
        (row,) = [line for line in text.splitlines() if f" {one.name} " in line and "[" in line]
        for cell in (signed(one.mean), interval(one.low, one.high), one.verdict):
            assert cell in row
    folder = study.ledger.folder
    for line in (
        str(report.html),
        str(report.markdown),
        f"mlflow ui --backend-store-uri sqlite:///{folder}/mlflow.db",
        f"optuna-dashboard sqlite:///{folder}/optuna.db",
        "Shown to be as good as the best",
        "reached by 5 of 5 runs of winner",  # the terminal phase
        "0 of 5 runs of ce,",
    ):
        assert line in text
    assert len(text.splitlines()) < 32


def test_metrics_for_the_tracker_are_finite_numbers(whole):
    study, report = whole
    assert report.metrics["confirm/fine_probe/winner"] == pytest.approx(study.confirmed("winner").mean())
    gain = study.confirmed("winner") - study.confirmed("ce")
    assert report.metrics["difference/fine_probe/ce"] == pytest.approx(gain.mean())
    assert report.metrics["study/test_reads"] == 25
    assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in report.metrics.values())


def test_a_difference_without_a_verdict_is_no_metric(tmp_path):
    def record(job):
        failed = job.phase == "confirm" and job.name == "ce" and job.experiment.seed == 2003
        return ended(job.experiment, "failed", "no") if failed else completed(job.experiment)

    Studied(tmp_path / "s", record=record, **NO_FIGURES).all()
    report = build_report(tmp_path / "s")
    assert math.isfinite(report.verdict.comparisons[0].mean)  # of the other four seeds
    assert "difference/fine_probe/ce" not in report.metrics and "confirm/fine_probe/ce" not in report.metrics
    assert "difference/fine_probe/ce_etf" in report.metrics


def test_results_row_holds_the_result_and_what_produced_it(whole):
    study, report = whole
    row = results_row(report.summary)
    path = report.files["verdict.json"]
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(row))
    assert str(study.ledger.folder.parent) not in json.dumps(row)
    assert row["config_hash"] == study.config.identity
    assert row["objectives"][0]["scores"]["ce"] == study.confirmed("ce").tolist()
    (objective,) = row["objectives"]
    assert [one["name"] for one in objective["comparisons"]] == list(study.config.protocol.baselines)
    for one, shown in zip(report.verdict.comparisons, objective["comparisons"], strict=True):
        assert shown["mean"] == one.mean and shown["differences"] == list(one.differences)
        assert shown["with_images"]["low"] == report.summary.primary.crossed[one.name].low
    assert objective["winners_judged"] == 1
    assert row["confirmation_seeds"] == [2000, 2001, 2002, 2003, 2004]
    assert row["methods"]["ce"]["terminal_phase"] == 0 and row["methods"]["ce"]["parameter_count"] == 1234
    (angle,) = row["winner"]["angles"].values()
    assert angle["degrees"] == pytest.approx(math.degrees(angle["radians"]))
    assert angle["fraction_of_pi"] == pytest.approx(angle["radians"] / math.pi)
    for name in ("commit", "versions", "device", "split_hash", "search_split_hash", "epoch_policy"):
        assert row["provenance"][name] is not None


@pytest.mark.slow
def test_long_tail_has_the_plane_of_thresholds_and_the_gain_of_each_class(tmp_path):
    study = Studied(tmp_path / "s", preset="digits-lt").all()
    report = build_report(tmp_path / "s")
    figures = {name.removeprefix("figures/") for name in report.files if name.startswith("figures/")}
    assert figures == {
        "accuracy_by_count.png", "gain_by_count.png", "collapse_by_count.png",
        "confirmation.png", "two_thresholds.png", "angles_by_count.png", "groups_by_threshold.png", "cosines.png",
        "gain_by_class.png", "search.png", "group_tradeoff.png", "score_by_held_loss.png",
    }  # fmt: skip
    text = text_of(report)
    assert "| balanced | sd |" in text and "minor" in text
    assert "undetermined, since the family 'major_minor' has 2 angles" in text
    angles = study.winner["winner"]["method"]["thresholds"]["angles"]
    for name, value in angles.items():
        assert f"{name} = {angle_text(value)}" in printed(report)


@pytest.mark.slow
def test_every_figure_is_shown_where_classes_differ_but_form_no_groups(tmp_path):
    def many(job):
        found = completed(job.experiment)
        for row in found["per_class"]:
            row["train_images"] += 100
        return found

    Studied(tmp_path / "s", record=many, **NO_FIGURES).all()
    Studied(tmp_path / "t", record=many, preset="digits-lt").all()
    for name in "st":
        report = build_report(tmp_path / name)
        text = text_of(report)
        assert "Groups of classes" not in text
        assert all(figure in text for figure in report.files if figure.startswith("figures/"))
    assert "figures/gain_by_count.png" in report.files


@pytest.mark.slow
def test_an_angle_for_each_class_is_told_class_by_class(tmp_path):
    """In the table by falling count and in verdict.json; what is no angle is told without a unit."""
    study = Studied(tmp_path / "s", preset="digits-lt", data={"boundary": 25}, search={"family": "per_class"}).all()
    report = build_report(tmp_path / "s")
    text, row = text_of(report), results_row(report.summary)
    method = MethodConfig.model_validate(study.winner["winner"]["method"])
    expected = resolve(method.thresholds.spec(), ThresholdContext(torch.tensor(TAIL), boundary=25)).tolist()
    assert len(set(expected)) == len(TAIL)
    lines = [
        f"| class {k} | {images} | {angle:.4f} | {math.degrees(angle):.1f}° |"
        for k, (images, angle) in enumerate(zip(TAIL, expected, strict=True))
    ]
    places = [text.index(line) for line in lines]
    assert places == sorted(places)  # TAIL falls
    assert [one["tau_plus"]["radians"] for one in row["winner"]["per_class"]] == expected
    assert row["winner"]["angles"]["jump"] == {"number": 0.0} and "degrees" in row["winner"]["angles"]["wave_1"]
    assert "jump = 0.0000" in printed(report) and "| jump | 0.0000 |" in text
    assert "the family 'per_class' has 5 numbers, and the rule holds for one angle" in text
    assert ", 0° to 85°, jump 0 to 1, wave_1 up to 21.25° to either side, wave_2 up to 10.625° to either side;" in text


def test_a_family_without_an_angle(tmp_path):
    Studied(tmp_path / "s", preset="digits-lt", search={"family": "quantile"}, **NO_FIGURES).all()
    report = build_report(tmp_path / "s")
    text = text_of(report)
    assert "lies inside its cone is searched, share 0 to 0.95; ways of letting go" in text
    assert "share = 0.0000" in printed(report) and "| share | 0.0000 |" in text
    assert "the family 'quantile' has 1 number, and the rule holds for one angle" in text


@pytest.mark.slow
def test_a_refinement_tells_its_stages(tmp_path):
    search = {"family": "major_minor", "refine": ["global"]}
    study = Studied(tmp_path / "s", preset="digits-lt", search=search, **NO_FIGURES).all()
    plain = {"family": "global", "params": {"tau": 0.5, "release": "gate"}}
    row = study.ledger.proposals()[0]
    study.ledger.write_proposal(0, row | {"stage": plain, "name": "gate 28.6 deg"})
    report = build_report(tmp_path / "s")
    assert [trial.family for trial in report.summary.trials] == ["global"] + ["major_minor"] * 6
    text = text_of(report)
    assert "refined from plain to rich families, 1 in 'global' and 6 in 'major_minor'" in text
    assert "| 0 | gate 28.6 deg | completed |" in text


def as_good(study, degrees, release, good):
    """`as_good_text` of a summary with another winner, and other grid points as good as the best."""
    summary = read_summary(study.ledger.folder)
    method = {"name": "hinge_ce", "release": release}
    method["thresholds"] = {"family": "global", "angles": {"tau": math.radians(degrees)}}
    winner = summary.winner | {"winner": summary.winner["winner"] | {"method": method}}
    found = replace(summary.grid.as_good, good=np.isin(range(8), good), interval=(3, 5))
    return as_good_text(replace(summary, winner=winner, grid=replace(summary.grid, as_good=found)))


def test_trials_tell_how_many_images_their_cones_held_and_which_cones_held_none(tmp_path):
    Studied(tmp_path / "s").begin().search((0.0, 20.0, 25.0, 55.0))
    text = text_of(build_report(tmp_path / "s"))
    rows = [line for line in text.splitlines() if line.startswith(tuple(f"| {number} |" for number in range(4)))]
    assert [[cell.strip() for cell in row.split("|")[-3:-1]] for row in rows] == [
        ["–", "–"],
        ["0.0", "0.0"],
        ["0.0", "0.0"],
        ["25.0", "3.1"],  # 0.25 * (0 + 1 + 2) / 4 of 3 + 2 + 1
    ]
    assert "in 2 of the 3 finished trials with cones these never held 1 % of the training images" in text


def test_cones_of_few_classes_are_held_against_the_images_of_these(tmp_path):
    """The minor class has a few percent of the images: less than 1 % of all can be many of its own."""
    study = Studied(tmp_path / "s", preset="digits-lt", data={"boundary": 10}).begin()
    for number, degrees in enumerate((31.5, 30.5, 29.0)):
        study.trial(number, {"tau_major": 0.0, "tau_minor": math.radians(degrees), "release": "gate"}, "gate")
    trials = read_summary(tmp_path / "s").trials
    assert all(trial.inside < 1 for trial in trials)
    assert [trial.hollow for trial in trials] == [False, True, True]


def test_where_the_winner_lies_on_the_curve(whole):
    study, report = whole
    grid = report.summary.grid
    assert grid.release == "paper"
    first, last, apart = (f"{math.degrees(grid.angles[place]):.1f}°" for place in (3, 5, 7))
    half = f"{grid.as_good.half_width:.2f} points below the differences measured"
    inside = as_good(study, 50, "paper", (3, 4, 5))
    assert f"best: {first} (" in inside and f" to {last} (" in inside and half in inside
    assert inside.endswith("The winner's 50.0° (5π/18) lies inside the range.") and "apart" not in inside
    assert "is not thereby shown to be worse" in as_good(study, 20, "paper", (3, 4, 5))
    assert "The winner is not on this curve: it lets go the way 'gate'." in as_good(study, 50, "gate", (3, 4, 5))
    assert f"apart from that range: {apart} (" in as_good(study, 50, "paper", (3, 4, 5, 7))
    for degrees, between, good in (
        (65, "60.7° (0.337π) and 72.9°", (3, 4, 5)),
        (80, "72.9° (0.405π) and 85.0°", (3, 4, 5, 7)),
    ):
        text = as_good(study, degrees, "paper", good)
        assert f"lies between {between}" in text and text.endswith("of which only one is shown to be as good.")
    end = as_good(study, math.degrees(grid.angles[7]), "paper", (3, 4, 5, 7))
    assert end.endswith("is as good, but apart from the range.")
    none = as_good(study, 0, "gate", (3, 4, 5))  # CE+ETF, whatever the way
    assert (
        "The winner has no cone (τ⁺ = 0)" in none and "'paper' is the first" in none and "0.0° (0) lies outside" in none
    )


def test_two_objectives_have_a_verdict_each(tmp_path):
    Studied(tmp_path / "s", search={"objectives": ["fine_probe", "balanced"]}, **NO_FIGURES).all()
    report = build_report(tmp_path / "s")
    text = text_of(report)
    first, second = (objective.verdict.sentence for objective in report.summary.objectives)
    assert text.index(first) < text.index("Second objective") < text.index("\n## ")
    assert second in text and "figures/confirmation_balanced.png" in report.files
    assert text.count("| with test images |") == 2


def test_a_family_without_angles(tmp_path):
    Studied(tmp_path / "s", search={"family": "none"}, **NO_FIGURES).begin().search(degrees=(0.0,)).select().confirm()
    report = build_report(tmp_path / "s")
    text, screen = text_of(report), printed(report)
    assert "Winner: ce_etf. The same configuration as ce_etf." in screen
    assert "Family 'none': tau+ = 0 for every class: cross-entropy with a fixed frame; sampler tpe" in text
    for said in (text, screen):
        assert not re.search(r"letting go|of the search, '|no trial finished|undetermined|85°|Best thresholds", said)


def test_an_outdated_verdict_warns(tmp_path):
    study = Studied(tmp_path / "s", **NO_FIGURES).begin().search(degrees=(0.0, 20.0, 40.0)).select().confirm()
    assert "> [!CAUTION]\n> **The winner: better than" in text_of(build_report(tmp_path / "s"))
    study.search(degrees=(0.0, 20.0, 40.0, 60.0))
    report = build_report(tmp_path / "s")
    assert "> [!WARNING]\n> **The search went on after this winner was frozen" in text_of(report)
    assert "The search went on" in printed(report) and "The search went on" in results_row(report.summary)["verdict"]


def test_winners_that_share_the_error_are_said_to(tmp_path):
    study = Studied(tmp_path / "s", **NO_FIGURES).begin().search(degrees=(0.0, 20.0, 40.0)).select().confirm()
    assert "judged" not in text_of(build_report(tmp_path / "s"))
    study.search(degrees=(0.0, 20.0, 40.0, 60.0)).select().confirm()
    assert "the same seeds and test images judged 2 winners" in text_of(build_report(tmp_path / "s"))


def test_studies_that_lack_parts_get_a_report_that_says_so(tmp_path):
    def record(job):
        if job.phase == "confirm":
            return (
                None
                if job.name == "ce"
                else ended(job.experiment, "failed", "Traceback\nRuntimeError: <b>boom</b> | x")
            )
        if job.phase == "search" and job.number == 2:
            return ended(job.experiment, "pruned", "stopped after 1 epochs")
        if job.phase == "search" and job.number == 4:
            return ended(job.experiment, "failed", "ValueError: bad")
        if job.phase == "search" and job.number == 6:
            return None
        return completed(job.experiment)

    study = Studied(tmp_path / "s", record=record)
    seen = [text_of(build_report(tmp_path / "s"))]
    for phase in (study.begin, study.search, study.select, study.confirm):
        phase()
        report = build_report(tmp_path / "s")
        seen.append(text_of(report))
        assert report.sentence in printed(report).replace("\n", " ")
    assert all("No winner is frozen" in text for text in seen[:3])
    assert "Not frozen yet" in seen[0] and "As given" not in seen[0]
    assert "Frozen on plain cross-entropy" in seen[1]
    assert "25 in all" in seen[4] and "25 by winner and baselines" in seen[4]
    assert "0 in all, noted before each: 0 by" in seen[3]  # planned, not read
    assert "summed over completed runs" in seen[4]
    assert "No verdict: the confirmation has no score yet." in seen[4]
    assert "7 proposals (4 completed, 1 pruned, 1 failed, 1 not finished)" in seen[4]
    assert "| 4 | " in seen[4] and "ValueError: bad" in seen[4]
    assert "ce, seeds 2000, 2001, 2002, 2003 and 2004: not run" in seen[4]
    assert "<b>" not in report.html.read_text(encoding="utf-8")
    assert (
        json.loads(report.files["verdict.json"].read_text(encoding="utf-8"))["objectives"][0]["scores"]["ce"]
        == [None] * 5
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"train": {"epochs": 7, "lr": 1e-5}, "seed": 3},
        {
            "search": {"asha": {"first_rung": 2}, "releases": ["gate"]},
            "data": {"val_per_class": None, "val_fraction": 0.2},
        },
        {
            "protocol": {"learning_rates": [], "baselines": ["ce", "ce_smooth"]},
            "data": {"source": "folder:my data/set"},
        },
        {"model": {"options": {"width": 4}}, "probe": {"strengths": [1e-6, 2.0]}},
    ],
)
def test_the_command_gives_the_study_again(tmp_path, settings):
    study = Studied(tmp_path / "s", **settings)
    words = shlex.split(study_command(read_summary(tmp_path / "s")))
    assert words[:2] == ["python", "studies/tau_search.py"]
    found, execution, _ = configure(parser().parse_args(words[2:]))
    assert found == study.config and found.identity == study.config.identity
    assert (execution.trials, execution.name) == (9, "s")
    assert execution.storage_path == str(tmp_path)


@pytest.mark.parametrize(
    ("uri", "line"),
    [
        ("postgresql://ana:secret@host/db", "mlflow ui --backend-store-uri postgresql://host/db"),
        ("sqlite:////data/all runs.db", "mlflow ui --backend-store-uri 'sqlite:////data/all runs.db'"),
    ],
)
def test_other_trackers_and_no_password(tmp_path, uri, line):
    Studied(tmp_path / "s", tracking_uri=uri)
    summary = read_summary(tmp_path / "s")
    assert mlflow_command(summary) == line
    assert optuna_command(summary) == f"optuna-dashboard sqlite:///{tmp_path}/s/optuna.db"
    report = build_report(tmp_path / "s")
    assert all(b"secret" not in path.read_bytes() for path in report.files.values())
    assert f"MLflow  {line}" in printed(report)


def test_a_tracking_server_is_an_address_and_no_command(tmp_path):
    Studied(tmp_path / "s", tracking_uri="http://ana:secret@host:5000")
    report = build_report(tmp_path / "s")
    assert mlflow_command(report.summary) is None
    assert "MLflow  http://host:5000 (experiment s)" in printed(report)
    assert "in MLflow, at http://host:5000 (experiment s)" in text_of(report)
    blocks = re.findall(r"```bash\n(.*?)\n```", report.markdown.read_text(encoding="utf-8"), flags=re.S)
    assert blocks[-1] == optuna_command(report.summary)
    assert all(b"secret" not in path.read_bytes() for path in report.files.values())


def test_words():
    assert [signed(v) for v in (1.234, -0.5, 0.0, -0.001, math.nan)] == ["+1.23", "−0.50", "0.00", "0.00", "–"]
    assert [signed(v, 1) for v in (1.26, -0.04)] == ["+1.3", "0.0"]
    assert [fraction_of_pi(k * math.pi / 36) for k in (0, 9, 13, 36, 72)] == ["0", "π/4", "13π/36", "π", "2π"]
    assert fraction_of_pi(1.0) == "0.32π"
    assert interval(-1.0, 2.5) == "[−1.00, +2.50]" and interval(math.nan, 1.0) == "–"
    assert angle_text(13 * math.pi / 36) == "1.1345 rad = 65.0° = 13π/36"
    assert angle_text(0.0991) == "0.0991 rad = 5.7° = 0.032π"


def test_main_rebuilds_and_explains(tmp_path, capsys):
    Studied(tmp_path / "s").begin()
    assert main([str(tmp_path / "s")]) == 0
    assert "report" in capsys.readouterr().out
    assert main([str(tmp_path)]) == 1
    assert "study.json" in capsys.readouterr().err
    for taken in (tmp_path / "file", tmp_path / "file" / "inside"):
        (tmp_path / "file").write_text("mine")
        assert main([str(tmp_path / "s"), "--publish", str(taken)]) == 1
        told = f"error: the report's folder {taken}: {tmp_path / 'file'} cannot be written to (Not a directory); "
        assert capsys.readouterr().err.strip() == told + "give a folder that can"
        assert (tmp_path / "file").read_text() == "mine"
    if Path("/proc").is_dir():  # writable for root by its permissions, and by nobody in fact
        assert main([str(tmp_path / "s"), "--publish", "/proc/report"]) == 1
        assert "/proc cannot be written to" in capsys.readouterr().err
    for torn, told in (
        ('{"format": 1', "study.json cannot be read (it is no JSON"),
        ("[1]", "study.json holds a JSON list"),
        ('{"format": 1, "identity": "x"}', "study.json has no 'config'; restore it from a copy"),
        ("{}", "study.json has no 'format' and no 'identity' and no 'config'; restore it"),
    ):
        (tmp_path / "s" / "study.json").write_text(torn)
        assert main([str(tmp_path / "s")]) == 1
        text = capsys.readouterr().err
        assert text.startswith("error: ") and told in text
    for words, code in (([], 2), (["--help"], 0)):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == code


@pytest.mark.slow
def test_a_published_report_names_no_folder_of_this_machine(tmp_path):
    study = Studied(tmp_path / "place" / "s").begin().search(degrees=(60.0,)).select().confirm()
    study.ledger.write_phase("registered", {"model": "s", "key": study.winner_keys()[0]})
    folder = study.ledger.folder
    write_json(
        folder / "execution.json", read_json(folder / "execution.json") | {"storage_path": str(tmp_path / "place")}
    )
    own = build_report(folder)
    assert str(tmp_path) in own.markdown.read_text()
    report = build_report(folder, tmp_path / "published")
    for path in report.files.values():
        assert path.is_relative_to(tmp_path / "published") and str(tmp_path).encode() not in path.read_bytes()
    assert "sqlite:///runs/s/mlflow.db" in report.markdown.read_text()
    assert report.files.keys() == own.files.keys()


def test_records_of_real_experiments(tmp_path):
    settings = {
        "train": {"epochs": 1},
        "data": {"train_size": 200, "val_per_class": 12},
        "probe": {"strengths": [0.01, 1.0]},
        "search": {"releases": ["gate"]},
        "protocol": {
            "learning_rates": [], "select_seeds": 2, "confirm_seeds": 2, "select_top": 1, "grid_points": 0,
            "baselines": ["ce_etf"],
        },
    }  # fmt: skip
    loaded, results = {}, {}

    def record(job):
        config = job.experiment
        data = loaded.setdefault(config.role, prepare(config.data, config.role))
        results[job.key] = run(config, data, device="cpu")
        return records.completed(config, results[job.key])

    study = Studied(tmp_path / "s", record=record, **settings)
    study.begin().search(degrees=(65.0,)).select().confirm()
    for key, result in results.items():
        records.save_arrays(study.ledger.run_folder(key), result, weights=False, features=True)
    report = build_report(tmp_path / "s")
    summary = report.summary
    assert summary.missing == () and summary.sentence.startswith("The winner: no verdict against ce_etf")
    for runs in summary.confirmed:
        expected = [100 * results[key].metrics["test/fine_top1"] for key in runs.keys]
        assert summary.primary.scores[runs.name].tolist() == expected
        assert np.isfinite(runs.values("collapse/nc1")).all()
    mean = summary.primary.verdict.comparisons[0].mean
    assert summary.primary.crossed["ce_etf"].mean == pytest.approx(mean)  # the arrays say what the metrics say
    assert {name for name in report.files if name.startswith("figures/")} == {
        f"figures/{name}.png"
        for name in (
            "confirmation",
            "cosines",
            "features_train",
            "features_test",
            "gain_by_class",
            "score_by_held_loss",
            "search",
        )
    }
    assert f"| {results[summary.confirmed[0].keys[0]].provenance['parameter_count']} |" in text_of(report)
