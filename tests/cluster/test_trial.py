"""What a trial does with its experiment and with what goes wrong, without Ray."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from ray.tune.search import Searcher

from divfeat import record
from divfeat.cluster import trial as module
from divfeat.cluster.capacity import Capacity
from divfeat.cluster.trial import TrialSpec, fault_of, run_spec
from divfeat.cluster.tuner import _Queue
from divfeat.config import MethodConfig, ThresholdSpec
from divfeat.data.prepare import prepare
from divfeat.errors import ConfigError, DataError, NonFiniteError
from divfeat.files import read_json, read_lines, write_json
from divfeat.search.jobs import experiment
from divfeat.stages import stage_key
from tests.search.samples import METRIC, make_study

STUDY = make_study(
    data={"train_size": 100, "val_per_class": 5},
    train={"epochs": 2, "batch_size": 50},
    probe={"strengths": [1e-3]},
)


@pytest.fixture(scope="module")
def data():
    return prepare(STUDY.data, "search")


@pytest.fixture(autouse=True)
def never_by_the_clock(monkeypatch):
    """Tests say when the clock makes a trial talk."""
    monkeypatch.setattr(module, "REPORT_SECONDS", math.inf)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Heard:
    """The driver's ear."""

    def __init__(self):
        self.reports = []

    def __call__(self, report):
        self.reports.append(json.loads(json.dumps(report)))

    @property
    def epochs(self):
        return [[event["epoch"] for event in report["events"]] for report in self.reports]

    @property
    def done(self):
        return [report.get("done", False) for report in self.reports]


def make_spec(tmp_path, config=None, **options):
    config = config or experiment(STUDY, MethodConfig(name="ce"), 0)
    folder = tmp_path / "runs" / config.key
    return TrialSpec(config.key, config.to_dict(), str(folder), str(tmp_path / "stages"), **options)


def changed(method="ce", **train):
    settings = STUDY.train.model_copy(update=train)
    return experiment(STUDY, MethodConfig(name=method), 0, train=settings)


def stages(tmp_path):
    return [path for path in (tmp_path / "stages").rglob("*") if path.is_file()]


# --- a trial that goes well ---------------------------------------------------------------------------------------------


def test_a_trial_leaves_events_and_a_record_and_says_so(tmp_path, data):
    heard, spec = Heard(), make_spec(tmp_path)
    run_spec(spec, data, heard)
    folder = Path(spec.folder)
    record = read_json(folder / "record.json")
    assert (record["status"], record["key"], record["format"]) == ("completed", spec.key, 1)
    assert record["config"] == spec.experiment
    assert 0 < record["metrics"][METRIC] <= 1
    assert [row["epoch"] for row in record["history"]] == [0, 1]
    assert [row["epoch"] for row in read_lines(folder / "events.jsonl")] == [0, 1]
    assert heard.epochs == [[0, 1]]
    assert heard.done == [True]
    assert heard.reports[0]["key"] == spec.key
    assert sorted(path.name for path in folder.iterdir()) == ["correct.npz", "events.jsonl", "record.json"]
    assert stages(tmp_path) == []


@pytest.mark.parametrize(("role", "features"), [("search", False), ("confirm", True)])
def test_weights_are_kept_where_asked_and_features_of_confirmed_runs(tmp_path, role, features):
    probe = STUDY.probe.model_copy(update={"strengths_before": (1e-3,)})
    config = experiment(STUDY, MethodConfig(name="ce"), 0, role, probe=probe)
    spec = make_spec(tmp_path, config, keep=True)
    run_spec(spec, prepare(STUDY.data, role), Heard())
    folder = Path(spec.folder)
    assert read_json(folder / "record.json")["error"] is None
    assert (folder / "extractor" / "config.json").is_file()
    assert (folder / "extractor" / "weights.pt").is_file()
    assert any(path.name.startswith("features") for path in folder.iterdir()) is features


@pytest.mark.parametrize(
    ("options", "seconds", "epochs"),
    [
        ({"rungs": (1, 3)}, math.inf, [[0], [1, 2], [3]]),  # at rungs and at the end
        ({}, math.inf, [[0, 1, 2, 3]]),
        ({}, 0.0, [[0], [1], [2], [3], []]),  # whenever it is time
        ({"every": 2}, 0.0, [[0, 1], [2, 3], []]),  # on several ranks the clock decides nothing
        ({"every": 3, "rungs": (1,)}, 0.0, [[0], [1, 2], [3]]),
    ],
)
def test_when_the_driver_is_told(tmp_path, data, monkeypatch, options, seconds, epochs):
    monkeypatch.setattr(module, "REPORT_SECONDS", seconds)
    every = options.pop("every", None)
    heard, spec = Heard(), make_spec(tmp_path, changed(epochs=4), **options)
    run_spec(spec, data, heard, every_epochs=every)
    assert heard.epochs == epochs
    # Tune ends a trial that says so, and must not while the driver of several ranks still waits for them.
    assert heard.done == [False] * (len(epochs) - 1) + [every is None]
    for report in heard.reports:
        for event in report["events"]:
            assert (METRIC in event) is (event["epoch"] + 1 in spec.rungs)


def test_other_ranks_report_alike_and_write_nothing(tmp_path, data):
    heard, spec = Heard(), make_spec(tmp_path)
    run_spec(spec, data, heard, rank=1, every_epochs=1)
    assert heard.epochs == [[0], [1], []]
    assert not Path(spec.folder).exists()


def test_a_finished_experiment_is_not_run_again(tmp_path, data, monkeypatch):
    heard, spec = Heard(), make_spec(tmp_path)
    write_json(Path(spec.folder) / "record.json", {"status": "completed"})
    monkeypatch.setattr(module, "run", None)
    run_spec(spec, data, heard)
    assert heard.reports == [{"key": spec.key, "events": [], "done": True}]
    assert read_json(Path(spec.folder) / "record.json") == {"status": "completed"}


def test_threads_are_the_cores_of_the_trial(tmp_path, data, threads, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "run", lambda *arguments, **options: seen.append(torch.get_num_threads()) or 1 / 0)
    for i, cpus in enumerate((3.0, 0.5, 1.0)):
        run_spec(make_spec(tmp_path / str(i), cpus=cpus), data, Heard())
    assert seen == [3, 1, 1]


# --- a trial that goes wrong by its own fault ---------------------------------------------------------------------------


def test_divergence_is_a_failed_trial_and_a_normal_return(tmp_path, data):
    heard, spec = Heard(), make_spec(tmp_path, changed(lr=1e8, epochs=3))
    run_spec(spec, data, heard)
    record = read_json(Path(spec.folder) / "record.json")
    assert (record["status"], record["error_kind"], record["metrics"]) == ("failed", "nan", {})
    assert "NaN or infinite" in record["error"]
    assert "Traceback" not in record["error"]
    assert heard.done == [True]
    assert stages(tmp_path) == []


def test_a_bad_configuration_is_told_in_its_own_words(tmp_path, data):
    model = STUDY.model.model_copy(update={"projector_dim": 2})
    spec = make_spec(tmp_path, experiment(STUDY, MethodConfig(name="ce_etf"), 0, model=model))
    heard = Heard()
    run_spec(spec, data, heard)
    record = read_json(Path(spec.folder) / "record.json")
    assert (record["status"], record["error_kind"]) == ("failed", "config")
    assert "projector_dim" in record["error"]
    assert heard.done == [True]


def test_an_error_in_code_keeps_its_traceback_and_the_epochs_before_it(tmp_path, data):
    spec, heard = make_spec(tmp_path, changed(epochs=3), rungs=(1, 2)), Heard()

    def told(report):
        heard(report)
        if len(heard.reports) == 2:
            raise KeyError("a bug in epoch 1")

    run_spec(spec, data, told)
    record = read_json(Path(spec.folder) / "record.json")
    assert (record["status"], record["error_kind"]) == ("failed", "error")
    assert "Traceback" in record["error"]
    assert "a bug in epoch 1" in record["error"].splitlines()[-1]
    assert [row["epoch"] for row in record["history"]] == [0, 1]


def test_epochs_that_a_retry_repeated_count_once(tmp_path, data, monkeypatch):
    spec = make_spec(tmp_path)
    for epoch, loss in ((0, 3.0), (1, 2.0), (1, 2.5), (0, 3.5)):
        module.append_line(Path(spec.folder) / "events.jsonl", {"epoch": epoch, "train/loss": loss})
    monkeypatch.setattr(module, "run", lambda *arguments, **options: 1 / 0)
    run_spec(spec, data, Heard())
    history = read_json(Path(spec.folder) / "record.json")["history"]
    assert [(row["epoch"], row["train/loss"]) for row in history] == [(0, 3.5), (1, 2.5)]


def test_several_ranks_end_together(tmp_path, data):
    """Others wait in a collective: the record is written, and the training is torn down."""
    spec = make_spec(tmp_path, changed(lr=1e8, epochs=3))
    with pytest.raises(NonFiniteError):
        run_spec(spec, data, Heard(), rank=0, every_epochs=1)
    assert read_json(Path(spec.folder) / "record.json")["error_kind"] == "nan"


# --- a trial that meets a reason to stop --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "last", "said"),
    [
        ({"metric": "train/feature_norm", "above": 0.0}, 0, "stopped after 1 epochs: train/feature_norm = "),
        ({"metric": "followed/collapse/nc1", "above": 0.0}, 0, "stopped after 1 epochs: followed/collapse/nc1 = "),
        ({"metric": "train/loss", "below": 0.0}, None, None),
        ({"metric": "train/accuracy", "above": 0.0}, 0, "above 0"),
    ],
)
def test_a_reason_to_stop_ends_the_training_as_pruned(tmp_path, data, stop, last, said):
    heard, spec = Heard(), make_spec(tmp_path, changed(epochs=3), stop=(stop,))
    run_spec(spec, data, heard)
    found = read_json(Path(spec.folder) / "record.json")
    if last is None:
        assert (found["status"], len(found["history"])) == ("completed", 3)
        return
    assert (found["status"], found["error_kind"], found["metrics"]) == ("pruned", "stop", {})
    assert said in found["error"] and len(found["error"].splitlines()) == 1
    assert [row["epoch"] for row in found["history"]] == list(range(last + 1))
    assert stop["metric"] in found["history"][-1]
    assert heard.done == [True] and heard.epochs == [[0]]  # the driver hears of the last epoch too
    assert stages(tmp_path) == []


def test_several_ranks_stop_together(tmp_path, data):
    spec = make_spec(tmp_path, stop=({"metric": "train/loss", "above": 0.0},))
    with pytest.raises(module._StoppedError):
        run_spec(spec, data, Heard(), rank=0, every_epochs=1)
    assert read_json(Path(spec.folder) / "record.json")["status"] == "pruned"
    other = make_spec(tmp_path / "other", stop=({"metric": "train/loss", "above": 0.0},))
    run_spec(other, data, Heard(), rank=1, every_epochs=1)  # is torn down with the first; decides nothing
    assert not Path(other.folder).exists()


# --- a trial that something else broke ----------------------------------------------------------------------------------


def test_a_disk_that_refuses_is_not_the_trials_fault(tmp_path, data):
    (tmp_path / "stages").write_text("in the way")  # where checkpoints should go
    spec, heard = make_spec(tmp_path), Heard()
    with pytest.raises(OSError, match="stages"):
        run_spec(spec, data, heard)
    assert not (Path(spec.folder) / "record.json").exists()
    assert True not in heard.done


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), ConnectionResetError("gone")])
def test_what_the_trial_did_not_cause_passes_through(tmp_path, data, monkeypatch, error):
    def broken(*arguments, **options):
        raise error

    monkeypatch.setattr(module, "run", broken)
    spec = make_spec(tmp_path)
    with pytest.raises(type(error)):
        run_spec(spec, data, Heard())
    assert not (Path(spec.folder) / "record.json").exists()


def uninterrupted(tmp_path, data, config):
    spec = make_spec(tmp_path / "whole", config)
    run_spec(spec, data, Heard())
    return read_json(Path(spec.folder) / "record.json")


@pytest.mark.parametrize(
    ("rungs", "told"),
    [
        ((), [0, 1, 0, 1, 2]),  # no checkpoint yet: from the start
        ((1, 2), [0, 1, 1, 2]),  # the rung's checkpoint was written before the rung was heard of
        ((2,), [0, 1, 1, 2]),
        ((1,), [0, 1, 0, 1, 2]),  # measured at the rung again, not trained again
    ],
)
def test_a_trial_lost_early_goes_on_from_its_last_rung_and_counts_every_epoch_once(
    tmp_path, data, monkeypatch, rungs, told
):
    monkeypatch.setattr(module, "REPORT_SECONDS", 0.0)  # every epoch is told
    spec = make_spec(tmp_path, changed(epochs=3), rungs=rungs)

    def lost(report):
        if any(event["epoch"] == 1 for event in report["events"]):
            raise OSError("the node is gone")

    with pytest.raises(OSError, match="the node is gone"):
        run_spec(spec, data, lost)
    run_spec(spec, data, Heard())
    record = read_json(Path(spec.folder) / "record.json")
    assert record["metrics"] == uninterrupted(tmp_path, data, changed(epochs=3))["metrics"]
    assert [row["epoch"] for row in record["history"]] == [0, 1, 2]
    assert [row["epoch"] for row in read_lines(Path(spec.folder) / "events.jsonl")] == told


def test_a_trial_lost_after_its_training_goes_on_from_its_checkpoint(tmp_path, data, monkeypatch):
    spec, again = make_spec(tmp_path, changed(epochs=3)), Heard()

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.record, "save_arrays", full)
        with pytest.raises(OSError, match="No space left"):
            run_spec(spec, data, Heard())
    assert [path.name for path in stages(tmp_path)] == ["checkpoint.pt"]
    run_spec(spec, data, again)
    assert again.epochs == [[]]  # nothing was trained again
    record = read_json(Path(spec.folder) / "record.json")
    whole = uninterrupted(tmp_path, data, changed(epochs=3))
    assert record["metrics"] == whole["metrics"]
    assert [row["train/loss"] for row in record["history"]] == [row["train/loss"] for row in whole["history"]]
    assert stages(tmp_path) == []


# --- two stages ---------------------------------------------------------------------------------------------------------


def test_runs_of_one_first_stage_train_it_once(tmp_path, data):
    """Whichever comes first; records are those of runs that train it themselves."""
    whole = {name: uninterrupted(tmp_path / "alone", data, changed(name)) for name in ("ce", "crt", "tau_norm")}
    for order in (("ce", "crt", "tau_norm"), ("tau_norm", "crt", "ce")):
        folder = tmp_path / order[0]
        for index, name in enumerate(order):
            heard, spec = Heard(), make_spec(folder, changed(name), shared=True)
            run_spec(spec, data, heard)
            first, second = ([] if index else [0, 1]), (list(range(2, 12)) if name == "crt" else [])
            assert heard.epochs == [first + second]
            assert read_json(Path(spec.folder) / "record.json")["metrics"] == whole[name]["metrics"]
            assert {path.parent.name for path in stages(folder)} == {stage_key(changed("ce"))}


def test_a_run_alone_leaves_no_stage(tmp_path, data):
    run_spec(make_spec(tmp_path, changed("crt")), data, Heard())
    assert stages(tmp_path) == []


@pytest.mark.parametrize("shared", [False, True])
def test_a_second_stage_that_diverges_leaves_a_shared_first(tmp_path, data, shared):
    method = MethodConfig(name="crt", second_lr=1e30)
    spec = make_spec(tmp_path, experiment(STUDY, method, 0), shared=shared)
    run_spec(spec, data, Heard())
    record = read_json(Path(spec.folder) / "record.json")
    assert (record["status"], record["error_kind"]) == ("failed", "nan")
    assert {path.parent.name for path in stages(tmp_path)} == ({stage_key(changed("ce"))} if shared else set())
    run_spec(make_spec(tmp_path, changed("ce"), shared=shared), data, heard := Heard())
    assert heard.epochs == [[] if shared else [0, 1]]


class Source:
    """Hands out one trial, then has others wait for it."""

    def __init__(self, spec):
        self.specs, self.waiting = [spec], True

    def next(self):
        return self.specs.pop() if self.specs else None

    def stopping(self):
        return False


def test_tune_asks_again_while_trials_wait(tmp_path):
    source = Source(make_spec(tmp_path))
    queue = _Queue(source)
    assert TrialSpec.from_json(queue.suggest("a")["spec"]).key == queue.keys["a"]
    assert queue.suggest("b") is None
    source.waiting = False
    assert queue.suggest("b") == Searcher.FINISHED


# --- whose fault --------------------------------------------------------------------------------------------------------


def raised(make):
    try:
        make()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


DIST = torch.distributed.DistError if torch.distributed.is_available() else ConnectionError


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (NonFiniteError("loss"), "nan"),
        (MemoryError(), "memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "memory"),
        (raised(lambda: torch.empty(2**60, dtype=torch.uint8)), "memory"),
        (ConfigError("angle"), "config"),
        (DataError("missing"), "config"),
        (ValueError("shape"), "error"),
        (ZeroDivisionError(), "error"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "error"),
        (AssertionError(), "error"),
        (KeyError("Connection"), "error"),
        (KeyboardInterrupt(), None),
        (SystemExit(1), None),
        (GeneratorExit(), None),
        (FileNotFoundError("gone"), None),
        (OSError(28, "No space left on device"), None),
        (ConnectionResetError(), None),
        (TimeoutError(), None),
        (RuntimeError("[gloo] Timed out waiting 1800000ms for recv operation to complete"), None),
        (RuntimeError("NCCL communicator was aborted"), None),
        (RuntimeError("Connection closed by peer"), None),
        (DIST("The client socket has timed out"), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_fault_of(error, fault):
    assert fault_of(error) == fault


# --- plain data ---------------------------------------------------------------------------------------------------------


def test_a_spec_survives_its_journey(tmp_path):
    thresholds = ThresholdSpec(family="global", angles={"tau": 0.1})
    config = experiment(STUDY, MethodConfig(name="hinge_ce", thresholds=thresholds), 3)
    spec = make_spec(tmp_path, config, rungs=(1, 3), keep=True, workers=2, cpus=0.5, gpus=0.25)
    again = TrialSpec.from_json(spec.to_json())
    assert again == spec
    assert again.rungs == (1, 3)
    assert type(config).model_validate(again.experiment).key == config.key


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus", "gpus", "fit"),
    [
        ([(8, 0)], 1, 1, 0, 8),
        ([(8, 0)], 1, 3, 0, 2),
        ([(1, 0)], 1, 0.1, 0, 10),
        ([(3, 0)], 1, 0.1 * 3, 0, 10),
        ([(16, 1)], 1, 1, 0.25, 4),
        ([(16, 1)], 1, 8, 0.25, 2),
        ([(16, 0)], 1, 1, 0.25, 0),
        ([(64, 3)], 1, 1, 0.1, 30),
        ([(2, 4)], 1, 1, 0, 2),
        ([(1, 0), (1, 0)], 1, 2, 0, 0),  # a worker lies on one node
        ([(16, 0), (1, 4)], 1, 1, 1, 1),  # nor does it take cores here and a GPU there
        ([(2, 0)], 2, 1, 0, 0),  # no room for the process that drives them
        ([(2, 0)], 2, 0.95, 0, 1),
        ([(2, 0), (1, 0)], 2, 1, 0, 1),
        ([(2, 0), (2, 0)], 3, 1, 0, 1),
        ([(4, 0), (4.2, 0)], 4, 1, 0, 2),
        ([(4, 0), (4.1, 0)], 4, 1, 0, 1),
    ],
)
def test_capacity_counts_workers_node_by_node(nodes, workers, cpus, gpus, fit):
    capacity = Capacity(nodes, workers, cpus, gpus)
    assert capacity.trials == fit
    if not fit:
        with pytest.raises(
            ConfigError, match=r"no trial fits: a trial takes .* the nodes have .*lower --workers-per-trial"
        ):
            capacity.concurrency(None)
        return
    assert capacity.concurrency(None) == capacity.concurrency(fit) == fit
    with pytest.raises(ConfigError, match=f"--max-concurrent {fit + 1} does not fit.*at most {fit} fit"):
        capacity.concurrency(fit + 1)


def test_a_record_that_is_there_is_never_written_over(tmp_path, data):
    """The driver has pruned a training whose workers ran on for a moment."""
    config = changed(epochs=1)
    spec = make_spec(tmp_path, config, workers=2)

    def prune(message):
        record.write(Path(spec.folder), spec.key, record.ended("pruned", config, "stopped", "pruned", []))

    run_spec(spec, data, prune, every_epochs=1)
    assert read_json(Path(spec.folder) / "record.json")["status"] == "pruned"
