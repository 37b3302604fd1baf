"""What the command prints around a study."""

from types import SimpleNamespace

import pytest

from divfeat.errors import StorageLostError
from divfeat.search import command
from divfeat.search.interrupt import EXIT_CODES, Interrupt, StoppedError, TooManyFailuresError
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


def ended(tmp_path, monkeypatch, how) -> tuple[int, str]:
    """Exit code of a study that ends so, and the line that was given."""
    monkeypatch.setattr(command, "run_session", how)
    study, execution, _ = make_configs("digits", {"execution": {"storage_path": str(tmp_path)}})
    line = "python studies/tau_search.py --set 'search.own=[scale]'"
    return command.run_installed(command.make_study(study, execution, Interrupt()), "digits", line), line


def test_too_many_failures_are_code_3_with_their_cause_and_what_to_do(tmp_path, monkeypatch, capsys):
    def end(runner, build):
        raise TooManyFailuresError("8 runs of the phase 'search' failed in a row, 7 of them with: the loss became NaN")

    code, line = ended(tmp_path, monkeypatch, end)
    said = capsys.readouterr().err
    assert (
        code == 3 and "error: 8 runs of the phase 'search' failed in a row, 7 of them with: the loss became NaN" in said
    )
    assert f"/runs; mend the cause and repeat the line:\n  {line}\n" in said


def test_storage_that_fails_is_a_stop_from_outside(tmp_path, monkeypatch, capsys):
    def end(runner, build):
        raise StorageLostError("s3://bucket: No space left on device")

    code, line = ended(tmp_path, monkeypatch, end)
    said = capsys.readouterr().err
    assert code == 75 and "the study's storage fails: s3://bucket: No space left on device" in said
    assert f"repeat the line:\n  {line}\n" in said


@pytest.mark.parametrize("cut", ["time budget", "GPU-hour budget", "cost budget"])
def test_a_budget_that_ended_the_search_early_is_code_4_with_a_verdict(cut, tmp_path, monkeypatch, capsys):
    def end(runner, build):
        runner.cut = cut
        return SimpleNamespace(print=lambda console: console.print("the verdict"))

    code, line = ended(tmp_path, monkeypatch, end)
    said = capsys.readouterr().out
    assert code == 4 and said.index("the verdict") < said.index(
        f"the {cut} ended the search early; the verdict above holds"
    )
    assert said.endswith(f"To search on, give more of it:\n  {line}\n")


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
