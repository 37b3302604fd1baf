"""A whole study over several sessions: real phases, ledger, queue and Optuna; only the training is a function of the angle.

What Ray, MLflow and training add is shown in tests/cluster.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from divfeat import record as records
from divfeat.config import ExperimentConfig
from divfeat.errors import ConfigError, DataError
from divfeat.files import write_json
from divfeat.search import placing, protocol, session
from divfeat.search.interrupt import StoppedError, TooManyFailuresError
from divfeat.search.proposals import Proposals, storage_url
from divfeat.search.study import Study
from divfeat.stages import stage_key
from divfeat.study_config import ExecutionConfig
from divfeat.thresholds import PAPER_ANGLE
from tests.search.samples import METRIC, make_study
from tests.search.world import GATE, SMALL, World, angle_of, scored


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path / "a", GATE, monkeypatch)


def is_paper(config: ExperimentConfig) -> bool:
    return math.isclose(angle_of(config), PAPER_ANGLE)


def stop_in(role: str, after: int, outcome: Callable[[ExperimentConfig], Any]) -> Callable[[ExperimentConfig], Any]:
    """`outcome`, until a signal comes in the run after so many of the role."""
    left = [after]

    def found(config: ExperimentConfig) -> Any:
        if config.role == role:
            left[0] -= 1
            if left[0] < 0:
                return "stop"
        return outcome(config)

    return found


# --- the winner is frozen -------------------------------------------------------------------------------------------------


def test_a_selection_run_lost_before_the_winner_was_frozen_cannot_change_it_afterwards(world: World) -> None:
    """The paper's angle is best on two seeds and lost on the third, where it would have been worst."""
    third = protocol.select_seeds(GATE)[2]

    def outcome(config: ExperimentConfig) -> Any:
        if is_paper(config) and config.seed == third:
            return "lost"
        return scored(config, 0.9 if is_paper(config) else 0.8 - 0.01 * angle_of(config))

    world.outcome = stop_in("confirm", 2, outcome)
    with pytest.raises(StoppedError):
        world.session(6)
    first, read = world.winner, set(world.test_reads)
    world.outcome = lambda config: scored(config, 0.1 if is_paper(config) else 0.99, strength=0.1)  # all is mended
    world.session(6)
    assert world.winner == first
    assert set(world.test_reads) >= read
    assert len(world.test_reads) == 2 * GATE.protocol.confirm_seeds  # winner and CE, nothing besides
    assert {role for role, _ in world.ran} == {"confirm"}
    assert all(world.ledger.record(key) for key in world.ledger.started())


def test_a_candidate_that_failed_on_a_seed_does_not_win_on_the_others(world: World) -> None:
    third = protocol.select_seeds(GATE)[2]

    def outcome(config: ExperimentConfig) -> Any:
        if is_paper(config) and config.seed == third:
            return "lost"
        return scored(config, 0.9 if is_paper(config) else 0.8 - 0.01 * angle_of(config))

    world.outcome = outcome
    world.session(6)
    assert world.winner == "ce_etf"


def test_an_extension_keeps_the_strengths_of_what_was_confirmed(world: World) -> None:
    world.outcome = lambda config: scored(config, 0.8 - 0.01 * angle_of(config), strength=1e-3)
    world.session(5)
    read = world.test_reads

    def better(config: ExperimentConfig) -> Any:  # new proposals win, and other strengths would be chosen
        new = config.method.name == "hinge_ce" and not math.isclose(angle_of(config) % (math.pi / 36), 0, abs_tol=1e-9)
        return scored(config, 0.95 if new else 0.5, strength=10.0)

    world.outcome = better
    world.session(9)
    assert world.test_reads[: len(read)] == read
    new = world.test_reads[len(read) :]
    assert len(new) == GATE.protocol.confirm_seeds  # the new winner's; CE is not read again
    configs = [ExperimentConfig.model_validate(world.ledger.record(key)["config"]) for key in new]  # type: ignore[index]
    assert all(config.method.name == "hinge_ce" and config.probe.strengths == (10.0,) for config in configs)


def test_a_stopped_extension_is_taken_up_by_the_old_line_too(world: World) -> None:
    world.session(5)
    world.outcome = stop_in("search", 2, world.outcome)
    with pytest.raises(StoppedError):
        world.session(9)
    assert not world.study.finished
    world.outcome = lambda config: scored(config, 0.8 - 0.01 * angle_of(config))
    world.session(5)
    winner = world.ledger.phase("winner")
    assert winner is not None and winner["trials"] == len(world.ledger.proposals()) > 5
    assert world.ledger.phase("done")["trials"] == winner["trials"]  # type: ignore[index]


# --- what was lost comes again ---------------------------------------------------------------------------------------------


def test_a_lost_proposal_is_made_again_and_the_paper_keeps_its_try(world: World) -> None:
    plain = world.outcome
    world.outcome = stop_in("search", 6, lambda config: "lost" if is_paper(config) else plain(config))
    with pytest.raises(StoppedError):
        world.session(6)
    world.outcome = plain
    world.session(6)
    live, every = world.ledger.proposals(), world.ledger.proposals(lost=True)
    assert len(live) == 6 and len(every) == 7
    names = [row["name"] for row in live.values()]
    assert names.count("gate 65.0 deg") == 1
    assert all(world.ledger.record(row["key"])["status"] == "completed" for row in live.values())  # type: ignore[index]
    proposals = Proposals(GATE, world.ledger, storage_url(world.folder), world.folder.name)
    states = [trial.state for trial in proposals.optuna.trials]
    assert states.count(TrialState.COMPLETE) == 6 and states.count(TrialState.FAIL) == 1
    assert len(states) == 7


def test_a_family_without_parameters_recovers_from_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_study(protocol=SMALL, search={"family": "none", "releases": ["gate"]})
    world = World(tmp_path / "none", config, monkeypatch)
    plain = world.outcome
    world.outcome = lambda config: "lost" if config.method.name == "ce_etf" and config.seed == 0 else plain(config)
    with pytest.raises(TooManyFailuresError):
        world.session(2)
    world.outcome = plain
    world.session(2)
    assert world.winner == "ce_etf"


def test_calibration_rows_that_failed_stay_once_the_rate_is_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_study(protocol=SMALL | {"learning_rates": [0.1, 0.03]}, search={"releases": ["gate"]})
    world = World(tmp_path / "a", config, monkeypatch)
    plain = world.outcome
    world.outcome = stop_in("confirm", 1, lambda config: "lost" if config.train.lr == 0.03 else plain(config))
    with pytest.raises(StoppedError):
        world.session(5)
    tried = world.ledger.phase("calibrate")["tried"]  # type: ignore[index]
    world.outcome = plain
    world.session(5)
    assert world.ledger.phase("calibrate")["tried"] == tried  # type: ignore[index]
    assert all(world.ledger.record(row["key"]) is not None for row in tried)
    assert world.progress is not None and world.progress.failed["calibrate"] == 1


# --- what others are told ---------------------------------------------------------------------------------------------------


def test_a_run_cut_by_a_signal_is_closed_in_mlflow(world: World) -> None:
    world.outcome = stop_in("search", 4, world.outcome)
    with pytest.raises(StoppedError):
        world.session(6)
    begun = {arguments[0] for arguments in world.called("start_run")}
    ended = {arguments[0]: arguments[1]["status"] for arguments in world.called("finish_run")}
    assert ended.keys() == begun
    assert list(ended.values()).count("stopped") == 1
    assert verdicts(world)[-1] == "stopped"


def test_progress_counts_each_experiment_once(world: World) -> None:
    """The winner is the paper's setting and CE+ETF a candidate: runs that coincide across phases and names."""
    world.config = make_study(protocol=SMALL | {"baselines": ["ce", "ce_etf", "hinge_fixed"]})
    paper = lambda config: is_paper(config) and config.method.release == "paper"  # noqa: E731
    world.outcome = lambda config: scored(config, 0.9 if paper(config) else 0.85 if not angle_of(config) else 0.5)
    world.session(8)
    assert world.winner == "paper 65.0 deg"
    assert world.progress is not None and world.progress.done == world.progress.plan
    assert len(world.ran) == len(set(world.ran)) == len(world.ledger.started())
    world.study.execution = ExecutionConfig(trials=8)
    (world.folder / "phases" / "done.json").unlink()
    world.session(8)
    assert world.ran == [] and world.progress.done == world.progress.plan


def test_an_extractor_that_could_not_be_registered_is_registered_later(world: World) -> None:
    world.away = True
    world.session(4)
    assert world.ledger.phase("registered") is None and world.study.untold
    world.away = False
    world.session(4)  # a finished study: nothing runs
    assert world.ran == [] and not world.study.untold
    assert world.ledger.phase("registered")["version"] == 1  # type: ignore[index]
    key = world.ledger.phase("registered")["key"]  # type: ignore[index]
    assert world.ledger.started()[key]["phase"] in ("noise", "select")


def test_other_images_are_refused_with_nothing_run(world: World) -> None:
    world.outcome = stop_in("search", 4, world.outcome)
    with pytest.raises(StoppedError):
        world.session(6)
    write_json(world.folder / "phases" / "data.json", {"search": "another"})
    with pytest.raises(DataError, match=r"begun on other images or another split \(hash another, now .*--name"):
        world.session(6)
    assert world.ran == []


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("localhost:5000", "must begin with one of http://, https://, sqlite://"),
        ("foo://bar", "must begin with one of"),
        ("file:///x", "must begin with one of"),
        ("postgresql+nosuchdriver://host/db", "nosuchdriver"),
        ("sqlite://a:b:c", "Could not parse|invalid"),
    ],
)
def test_an_address_that_nothing_can_be_tracked_in_is_told_first(world: World, uri: str, told: str) -> None:
    found = Study(GATE, ExecutionConfig(tracking_uri=uri), world.folder, "a")
    with pytest.raises(ConfigError, match=rf"--tracking-uri '{re.escape(uri)}'.*({told}).*leave the option out"):
        session.run_session(found, lambda: pytest.fail("nothing to report"))
    assert not world.folder.exists()


def test_a_folder_that_no_sqlite_address_can_hold_is_told_first(world: World, tmp_path: Path) -> None:
    found = Study(GATE, ExecutionConfig(), tmp_path / "50%", "a")
    with pytest.raises(ConfigError, match="an sqlite address cannot hold"):
        session.run_session(found, lambda: None)  # type: ignore[arg-type, return-value]
    assert not (tmp_path / "50%").exists()


def test_the_protocol_is_written_before_the_search(world: World) -> None:
    world.session(4)
    found = world.ledger.phase("protocol")
    assert found is not None
    assert found["baselines"] == ["ce"] and found["primary_metric"] == METRIC and found["confirm_seeds"] == 5
    assert found["noise"]["method"] == "ce_etf" and len(found["noise"]["scores"]) == 3
    began = [row["time"] for row in world.ledger.started().values() if row["phase"] == "search"]
    assert len(began) == 4 and found["written"] <= min(began)


# --- constraints and stop reasons -------------------------------------------------------------------------------------------

#: Probe accuracy may not fall by more than 2 points below CE+ETF's.
BOUND = {"metric": "accuracy", "at_least": -2.0, "than": "ce_etf"}


def constrained(monkeypatch: pytest.MonkeyPatch, folder: Path, **search: Any) -> World:
    """Wide cones are best, but accuracy falls with them: 2 points at 0.5 rad."""
    config = make_study(protocol=SMALL, search={"releases": ["gate"], "constraints": [BOUND], **search})
    world = World(folder, config, monkeypatch)

    def outcome(config: ExperimentConfig) -> Any:
        angle = angle_of(config)
        found = scored(config, 0.6 + 0.1 * angle)
        return found | {"metrics": found["metrics"] | {"val/accuracy": 0.8 - 0.04 * angle}}

    world.outcome = outcome
    return world


def test_a_study_ends_with_a_winner_that_keeps_its_constraint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = constrained(monkeypatch, tmp_path / "a")
    world.session(14)
    decision = world.ledger.phase("winner")
    assert decision is not None
    method = decision["winner"]["method"]
    assert 0.2 < method["thresholds"]["angles"]["tau"] <= 0.5
    assert all(row["excess"]["accuracy >= ce_etf - 2"] <= 0 for row in decision["candidates"])
    assert world.ledger.phase("protocol")["constraints"] == {"accuracy >= ce_etf - 2": pytest.approx(78)}  # type: ignore[index]
    assert world.progress is not None and world.progress.best is not None
    assert world.progress.best[0] <= 0.65 + 1e-9  # what was shown as the best so far keeps it too
    free = constrained(monkeypatch, tmp_path / "b", constraints=[])
    free.session(14)
    angles = free.ledger.phase("winner")["winner"]["method"]["thresholds"]["angles"]  # type: ignore[index]
    assert angles["tau"] > 1


def test_a_bound_relative_to_runs_that_all_failed_ends_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = constrained(monkeypatch, tmp_path / "a")
    plain = world.outcome
    world.outcome = lambda config: "lost" if config.method.name == "ce_etf" and config.seed >= 1000 else plain(config)
    with pytest.raises(TooManyFailuresError, match="accuracy >= ce_etf - 2 is relative to ce_etf, of which no run"):
        world.session(4)
    assert world.ledger.proposals() == {}


def test_a_bound_that_trials_met_does_not_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of the noise floor is lost; mended later, it would have moved the bound that trials were judged by."""
    world = constrained(monkeypatch, tmp_path / "a")
    plain, second = world.outcome, protocol.select_seeds(world.config)[1]

    def lossy(config: ExperimentConfig) -> Any:
        return "lost" if config.method.name == "ce_etf" and config.seed == second else plain(config)

    world.outcome = stop_in("confirm", 0, lossy)
    with pytest.raises(StoppedError):
        world.session(5)
    before = protocol.limits_of(world.config, world.ledger.record)
    world.outcome = plain
    world.session(7)
    assert protocol.limits_of(world.config, world.ledger.record) == before
    assert world.ledger.record(protocol.noise_jobs(world.config)[1].key)["status"] == "failed"  # type: ignore[index]


def test_only_trials_of_the_search_have_reasons_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = [{"metric": "train/feature_norm", "above": 10.0}]
    world = constrained(monkeypatch, tmp_path / "a", stop=stop, constraints=[])
    plain, found = world.outcome, {}
    run = world.run

    def watched(source: Any) -> None:
        hand_out = source.next

        def next_spec() -> Any:
            spec = hand_out()
            if spec is not None:
                found[spec.key] = spec.stop
            return spec

        source.next = next_spec
        run(source)

    def outcome(config: ExperimentConfig) -> Any:
        if angle_of(config) > 1 and config.role == "search" and config.seed < 1000:
            return records.ended(
                "pruned", config, "stopped after 2 epochs: train/feature_norm = 11 above 10", "stop", []
            )
        return plain(config)

    world.run, world.outcome = watched, outcome  # type: ignore[method-assign]
    world.session(8)
    stops = {phase: set() for phase in ("noise", "search", "select", "confirm")}  # type: ignore[var-annotated]
    for key, info in world.ledger.started().items():
        stops[info["phase"]].add(bool(found[key]))
    assert stops == {"noise": {False}, "search": {True}, "select": {False}, "confirm": {False}}
    states = [trial.state for trial in optuna.load_study(study_name="a", storage=storage_url(world.folder)).trials]
    assert states.count(TrialState.PRUNED) > 0 and TrialState.RUNNING not in states
    rows = world.ledger.phase("winner")["candidates"]  # type: ignore[index]
    assert all(row["method"]["thresholds"]["angles"].get("tau", 0) <= 1 for row in rows)


# --- refinement -------------------------------------------------------------------------------------------------------------


def refined(monkeypatch: pytest.MonkeyPatch, folder: Path) -> World:
    search = {
        "family": "per_class",
        "refine": ["global", "count_curve"],
        "releases": ["gate"],
        "objectives": ["accuracy"],
    }
    config = make_study("digits-lt", protocol=SMALL | {"select_top": 2}, search=search)
    world = World(folder, config, monkeypatch)

    def outcome(config: ExperimentConfig) -> Any:  # wide cones on the tail are best
        found = config.method.thresholds.angles
        head, tail = found.get("tau_head", found.get("tau", 0.0)), found.get("tau_tail", found.get("tau", 0.0))
        value = 0.9 - (head - 0.2) ** 2 - (tail - 1.0) ** 2 - sum(abs(found.get(f"wave_{j}", 0.0)) for j in (1, 2))
        return scored(config, value) | {"metrics": scored(config, value)["metrics"] | {"test/accuracy": value}}

    world.outcome = outcome
    return world


def test_a_refined_study_over_three_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = refined(monkeypatch, tmp_path / "whole")
    whole.session(12)
    expected = list(whole.ledger.proposals().values())
    families = [row.get("stage", {"family": "per_class"})["family"] for row in expected]
    assert families == ["global"] * 2 + ["count_curve"] * 2 + ["per_class"] * 8

    world = refined(monkeypatch, tmp_path / "a")
    plain = world.outcome
    for stop in (4, 2):  # after the noise floor in the first stage, then in the second
        world.outcome = stop_in("search", stop, plain)
        with pytest.raises(StoppedError):
            world.session(12)
    world.outcome = plain
    world.session(12)
    assert list(world.ledger.proposals().values()) == expected
    assert world.winner == whole.winner
    assert all(world.ledger.record(key) for key in world.ledger.started())
    candidates = world.ledger.phase("winner")["candidates"]  # type: ignore[index]
    assert all(row["name"] == world.ledger.proposals()[row["number"]]["name"] for row in candidates)
    assert world.progress is not None and world.progress.done == world.progress.plan


def test_a_loss_in_an_early_stage_is_mended_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = refined(monkeypatch, tmp_path / "a")
    plain = world.outcome
    world.outcome = stop_in("search", 5, lambda config: "lost" if is_paper(config) else plain(config))
    with pytest.raises(StoppedError):
        world.session(12)
    world.outcome = plain
    world.session(12)
    live, every = world.ledger.proposals(), world.ledger.proposals(lost=True)
    assert len(live) == 12 and len(every) == 13
    again = [row for row in live.values() if row["name"] == "gate 65.0 deg"]
    assert len(again) == 1 and again[0]["stage"]["family"] == "global" and again[0]["number"] > 1
    assert all(world.ledger.record(row["key"])["status"] == "completed" for row in live.values())  # type: ignore[index]


def test_fewer_trials_than_stages_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = refined(monkeypatch, tmp_path / "a")
    with pytest.raises(ConfigError, match=r"--trials 2 leaves some of the 3 stages.*global, count_curve, per_class"):
        world.session(2)
    assert not world.folder.exists()


def test_first_stages_stay_until_the_study_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CE, which cRT follows, leaves its checkpoint at the seeds of both; nothing is left in the end."""
    rules = SMALL | {"baselines": ["ce", "crt", "focal"], "tune": True}
    both = make_study("digits-lt", protocol=rules, search={"releases": ["gate"]})
    world = World(tmp_path / "study", both, monkeypatch)
    shared: dict[str, set[bool]] = {}
    first: dict[str, set[str]] = {}
    spec_of = placing.Placing._spec

    def watched(place: Any, job: Any) -> Any:
        spec = spec_of(place, job)
        what = f"{job.phase} {job.experiment.method.name}"
        shared.setdefault(what, set()).add(spec.shared)
        first.setdefault(what, set()).add(stage_key(job.experiment))
        write_json(Path(spec.stages) / "stage" / "done.json", {})
        return spec

    def outcome(config: ExperimentConfig) -> Any:
        found = scored(config, 0.5)
        return found | {"metrics": found["metrics"] | {"val/accuracy_balanced": 0.5, "test/accuracy_balanced": 0.5}}

    monkeypatch.setattr(placing.Placing, "_spec", watched)
    world.outcome = outcome
    world.session(2)
    assert shared["select ce"] == shared["select crt"] == shared["confirm ce"] == shared["confirm crt"] == {True}
    assert shared["tune crt"] == {True} and len(first["tune crt"]) == 1  # whatever the numbers of its second stage
    assert first["select crt"] == first["select ce"] and first["confirm crt"] == first["confirm ce"]
    for what in ("tune focal", "select focal", "noise ce_etf", "search hinge_ce"):
        assert shared[what] == {False}
    assert not world.ledger.stages.exists()


# --- budgets --------------------------------------------------------------------------------------------------------------

PRICES = {"head": 0.1, "gpu": 1.0}


def verdicts(world: World) -> list[Any]:
    return [call[0] for call in world.called("finish_study")]


def test_a_budget_ends_the_search_in_time_for_the_verdict(world: World) -> None:
    made = world.session(40, gpu_hours=1.0, gpus_per_worker=1.0)
    assert made.sentence == "a verdict" and world.study.cut == "GPU-hour budget" and verdicts(world) == ["completed"]
    spent = world.ledger.spend()
    count = len(world.ledger.proposals())
    assert 1 < count < 40 and world.ledger.phase("winner")["trials"] == count
    assert world.progress.plan["search"] == count
    assert spent["gpu_hours"] <= 1.0 and spent["gpu_hours"] == pytest.approx(len(world.ran) * 100 / 3600)
    assert spent["gpu_hours"] > 0.8  # and leaves little of it
    said = world.study.console.file.getvalue()
    assert f"the search ends after {count} of 40 trials: the GPU-hour budget" in said
    last = world.called("log_study")[-1][0]
    assert last["spend/gpu_hours"] == pytest.approx(spent["gpu_hours"])


def test_the_same_line_again_prints_the_verdict_and_a_larger_budget_goes_on(world: World) -> None:
    world.session(40, gpu_hours=1.0, gpus_per_worker=1.0)
    count = len(world.ledger.proposals())
    world.session(40, gpu_hours=1.0, gpus_per_worker=1.0)
    assert world.ran == [] and world.study.cut == "GPU-hour budget" and len(world.ledger.proposals()) == count
    world.session(40, gpu_hours=2.2, gpus_per_worker=1.0)
    assert world.study.cut == "GPU-hour budget" and count < len(world.ledger.proposals()) < 40
    assert world.ledger.spend()["gpu_hours"] <= 2.2
    world.session(40, gpu_hours=9.0, gpus_per_worker=1.0)
    assert world.study.cut is None and len(world.ledger.proposals()) == 40


def test_money_is_that_of_the_nodes_whatever_they_do(world: World) -> None:
    world.session(40, max_cost=3.0, prices=PRICES)
    spent = world.ledger.spend()
    assert world.study.cut == "cost budget" and 2.0 < spent["cost"] <= 3.0
    assert spent["cost"] == pytest.approx(0.1 * spent["node_hours"]["head"] + 1.0 * spent["node_hours"]["gpu"])
    assert spent["node_hours"]["gpu"] == pytest.approx(2 * spent["node_hours"]["head"]) == world.seconds / 1800
    assert spent["gpu_hours"] == 0.0


def test_a_budget_that_reaches_to_no_verdict_is_spent_and_the_same_line_goes_on(world: World) -> None:
    """Stopping the search early would be of no use to anybody; what was trained is kept for the next time."""
    with pytest.raises(StoppedError, match="GPU-hour budget"):
        world.session(8, gpu_hours=0.2, gpus_per_worker=1.0)
    assert world.ledger.phase("winner") is None and len(world.ledger.proposals()) > 1
    assert world.ledger.spend()["gpu_hours"] == pytest.approx(0.2, abs=100 / 3600)
    done = len(list(world.folder.glob("runs/*/record.json")))
    world.session(8, gpu_hours=9.0, gpus_per_worker=1.0)
    assert world.study.cut is None and len(list(world.folder.glob("runs/*/record.json"))) == done + len(world.ran)


def test_a_node_type_without_a_price_is_told_before_anything_runs(world: World) -> None:
    with pytest.raises(ConfigError, match=r"nodes of type gpu: name .* or that of any other type as other"):
        world.session(4, max_cost=3.0, prices={"head": 0.1})
    assert world.ran == [] and not (world.folder / "study.json").exists()
    world.session(1, max_cost=30.0, prices={"other": 0.1})


def test_a_wait_for_nodes_is_charged_to_a_study_that_has_begun(world: World) -> None:
    def nobody_comes() -> None:
        world.seconds += 1800.0
        raise ConfigError("no place for a trial after 1800 s")

    world.wait = nobody_comes
    with pytest.raises(ConfigError, match="no place for a trial"):
        world.session(2, max_cost=30.0, prices=PRICES)
    assert list(world.folder.glob("*")) in ([], [world.folder / "lock"])  # of a new one nothing is written
    world.wait = lambda: None
    world.session(2, max_cost=30.0, prices=PRICES)
    before = world.ledger.spend()["cost"]
    world.wait = nobody_comes
    with pytest.raises(ConfigError, match="no place for a trial"):
        world.session(3, max_cost=30.0, prices=PRICES)
    assert world.ledger.spend()["cost"] == pytest.approx(before + 0.5 * (0.1 + 2 * 1.0))


def test_a_study_whose_trials_have_no_place_any_more_ends_with_what_is_missing_and_goes_on(world: World) -> None:
    plain, count = world.outcome, [0]

    def gone_after_a_while(config: ExperimentConfig) -> Any:
        count[0] += 1
        return plain(config) if count[0] < 4 else "stuck"

    world.outcome = gone_after_a_while
    with pytest.raises(ConfigError, match="no trial has had a place for 600 s"):
        world.session(6)
    done = {path: path.read_bytes() for path in world.folder.glob("runs/*/record.json")}
    assert len(done) == 3 and world.called("finish_study") != []
    world.outcome = plain
    world.session(6)
    assert {path: path.read_bytes() for path in done} == done and verdicts(world) == ["completed"]
