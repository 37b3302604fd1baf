"""What the command prints around a study."""

from types import SimpleNamespace

import pytest

from divfeat.search import command
from divfeat.search.interrupt import EXIT_CODES, Interrupt, StoppedError
from divfeat.settings import make_configs


@pytest.mark.parametrize("reason", list(EXIT_CODES))
def test_the_line_that_goes_on_is_printed_as_it_was_given(reason, tmp_path, monkeypatch, capsys):
    """Brackets too, which the printer would take for markup: `search.own=[scale]` without its list is another study."""

    def stop(runner, build):
        raise StoppedError(reason)

    monkeypatch.setattr(command, "run_session", stop)
    study, execution, _ = make_configs("digits-lt", {"execution": {"storage_path": str(tmp_path / "[runs]")}})
    line = "python studies/tau_search.py --set 'search.own=[scale]' --set 'protocol.baselines=[ce, ce_etf]'"
    runner = command.make_study(study, execution, Interrupt())
    assert command.run_installed(runner, "a set of [bold] digits", line) == EXIT_CODES[reason]
    said = capsys.readouterr().out
    more = {"GPU-hour budget": ", give more of it", "cost budget": ", give more of it"}.get(reason, "")
    assert f"To go on{more}:\n  {line}\n" in said
    assert "a set of [bold] digits" in said and f"folder {tmp_path / '[runs]'}/" in said


def test_what_differs_from_the_preset_is_said_below_its_text(tmp_path, monkeypatch, capsys):
    def stop(runner, build):
        raise StoppedError("SIGINT")

    monkeypatch.setattr(command, "run_session", stop)
    place = {"execution": {"storage_path": str(tmp_path)}}
    plain = make_configs("digits-lt", place)
    varied = make_configs("digits-lt", place | {"search": {"objectives": ["minor"]}, "train": {"epochs": 15}})
    for study, execution, about in (plain, varied):
        assert (
            command.run_installed(command.make_study(study, execution, Interrupt()), about, "line")
            == EXIT_CODES["SIGINT"]
        )
    said = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith(("study", "changed", "  ", "folder"))
    ]
    words = ["study", "folder", "line", "study", "changed", "search.objectives:", "train.epochs:", "folder", "line"]
    assert [line.split()[0] for line in said] == words
    assert "  search.objectives: ['balanced'] -> ['minor']" in said and "  train.epochs: 60 -> 15" in said


@pytest.mark.parametrize("away", [True, False])
def test_a_study_that_ends_while_mlflow_is_away_says_how_to_tell_it(away, tmp_path, monkeypatch, capsys):
    def end(runner, build):
        runner.untold = away
        return SimpleNamespace(print=lambda console: None)

    monkeypatch.setattr(command, "run_session", end)
    place = {"execution": {"storage_path": str(tmp_path), "tracking_uri": "http://host:5000"}}
    study, execution, _ = make_configs("digits", place)
    line = "python studies/tau_search.py --set 'search.own=[scale]'"
    assert command.run_installed(command.make_study(study, execution, Interrupt()), "digits", line) == 0
    said = capsys.readouterr().out
    assert ("MLflow at http://host:5000 is away and lacks a part of this study" in said) is away
    assert said.endswith(f"\n  {line}\n") is away
