import os
import subprocess
import sys
from pathlib import Path

import pytest

from divfeat import record as records
from divfeat.errors import ConfigError
from divfeat.files import read_json, write_json
from divfeat.search.ledger import Ledger, differences
from tests.search.samples import make_study, search_job


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "study")


# --- identity -----------------------------------------------------------------------------------------------------------


def test_check_writes_nothing_and_knows_its_study(ledger, tmp_path):
    study = make_study()
    assert ledger.check(study) is False
    assert list(tmp_path.iterdir()) == []
    ledger.open(study)
    before = tree(tmp_path)
    assert Ledger(ledger.folder).check(study) is True
    assert tree(tmp_path) == before
    ledger.close()


def test_taking_a_study_up_again_keeps_its_first_line(ledger):
    study = make_study()
    ledger.open(study)
    ledger.close()
    first = (ledger.folder / "study.json").read_bytes()
    again = Ledger(ledger.folder)
    again.open(study)
    again.close()
    assert (ledger.folder / "study.json").read_bytes() == first
    assert read_json(ledger.folder / "study.json")["config"] == study.to_dict()


def test_a_taken_name_is_refused_with_every_difference_named(ledger):
    ledger.open(make_study())
    ledger.close()
    before = tree(ledger.folder)
    other = make_study(train={"epochs": 7, "lr": 0.2}, search={"high": 1.0}, seed=3)
    for call in (Ledger(ledger.folder).check, Ledger(ledger.folder).open):
        with pytest.raises(ConfigError) as caught:
            call(other)
        text = str(caught.value)
        for line in ("train.epochs: 20 -> 7", "train.lr: 0.1 -> 0.2", "-> 1.0", "seed: 0 -> 3", "--name", "'study'"):
            assert line in text
        assert "weight_decay" not in text
    assert tree(ledger.folder) == before


def test_the_name_of_the_preset_is_no_difference(ledger):
    study = make_study()
    ledger.open(study)
    ledger.close()
    assert Ledger(ledger.folder).check(study.model_copy(update={"preset": "mine"})) is True


def test_another_format_is_refused(ledger):
    ledger.open(make_study())
    ledger.close()
    path = ledger.folder / "study.json"
    write_json(path, read_json(path) | {"format": 99})
    with pytest.raises(ConfigError, match=r"format 99, this is 1.*--name"):
        Ledger(ledger.folder).check(make_study())


def test_a_folder_that_cannot_be_made_is_refused_before_and_while_opening(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    ledger = Ledger(file / "below" / "study")
    for call in (ledger.check, ledger.open):
        with pytest.raises(ConfigError, match=r"--storage-path: .*cannot be written"):
            call(make_study())
    assert file.read_text() == "mine"


def test_a_disk_that_refuses_while_opening_is_the_users_business(ledger, monkeypatch):
    def refuse(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigError, match=r"--storage-path: .*No space left on device"):
        ledger.open(make_study())


def test_differences_names_leaves_only():
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3, "d": None}}) == ["  a.c: 2 -> 3"]
    assert differences({"data": {"tail": "step"}}, {"data": {"n_max": 9}}) == [
        "  data.n_max: not set -> 9",
        "  data.tail: 'step' -> not set",
    ]
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}) == []
    assert differences({"a": None}, {"a": {"b": 1}}) == ["  a: not set -> {'b': 1}"]


# --- lock ---------------------------------------------------------------------------------------------------------------

_SECOND = """
import sys
from pathlib import Path
from divfeat.errors import ConfigError
from divfeat.search.ledger import Ledger
from tests.search.samples import make_study
ledger = Ledger(Path(sys.argv[1]))
for attempt in range(2):
    try:
        ledger.open(make_study())
        print("opened", flush=True)
    except ConfigError as error:
        print(error, flush=True)
    sys.stdin.readline()
"""


def test_a_second_process_is_refused_until_the_first_is_done(ledger):
    ledger.open(make_study())
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", _SECOND, str(ledger.folder)]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as second:
        refused = second.stdout.readline()
        assert f"study 'study' is being run by process {os.getpid()}" in refused
        ledger.close()
        second.stdin.write("\n")
        second.stdin.flush()
        assert second.stdout.readline() == "opened\n"
        with pytest.raises(ConfigError, match=f"is being run by process {second.pid}"):
            ledger.open(make_study())
        second.communicate("\n", timeout=60)
    assert second.returncode == 0
    ledger.open(make_study())  # what a process leaves behind when it ends, however it ends
    ledger.close()


def test_the_same_process_is_no_exception_and_a_closed_ledger_opens_again(ledger):
    ledger.open(make_study())
    with pytest.raises(ConfigError, match=f"process {os.getpid()}"):
        Ledger(ledger.folder).open(make_study())
    ledger.close()
    ledger.close()
    ledger.open(make_study())
    ledger.close()


# --- runs ---------------------------------------------------------------------------------------------------------------


def test_events_count_once_an_epoch_in_order_with_the_last_values(ledger):
    for epoch, loss in [(0, 3.0), (1, 2.0), (2, 1.5), (1, 2.1), (2, 1.4), (3, float("nan"))]:
        ledger.event("k", {"epoch": epoch, "loss": loss})
    assert ledger.events("k") == [
        {"epoch": 0, "loss": 3.0},
        {"epoch": 1, "loss": 2.1},
        {"epoch": 2, "loss": 1.4},
        {"epoch": 3, "loss": None},
    ]
    assert ledger.events("unknown") == []


@pytest.mark.parametrize("cut", range(1, 22))
def test_a_torn_last_event_is_forgotten_and_takes_no_other_with_it(ledger, cut):
    ledger.event("k", {"epoch": 0, "loss": 3.0})
    ledger.event("k", {"epoch": 1, "loss": 2.0})
    path = ledger.run_folder("k") / "events.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    kept = [0, 1] if cut == 1 else [0]  # without its newline a line is complete all the same
    assert [row["epoch"] for row in ledger.events("k")] == kept
    ledger.event("k", {"epoch": 1, "loss": 2.5})
    assert ledger.events("k")[-1] == {"epoch": 1, "loss": 2.5}
    assert len(ledger.events("k")) == 2


def test_a_record_is_there_whole_or_not_at_all(ledger, monkeypatch):
    job = search_job(make_study(), 1.0)
    old = records.ended("failed", job.experiment, "why", "nan", [])
    ledger.write_record(job.key, old)

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        ledger.write_record(job.key, old | {"status": "completed"})
    with pytest.raises(KeyboardInterrupt):
        ledger.write_record("fresh", old)
    found = ledger.record(job.key)
    assert found["status"] == "failed"
    assert (found["format"], found["key"]) == (1, job.key)
    assert ledger.record("fresh") is None


def test_a_launch_is_noted_once(ledger):
    assert ledger.started() == {}
    ledger.start("k", {"phase": "noise", "name": "ce_etf", "seed": 1})
    first = ledger.started()["k"]
    ledger.start("k", {"phase": "select", "name": "other", "seed": 1})
    ledger.start("j", {"phase": "select", "name": "other", "seed": 2})
    assert ledger.started()["k"] == first
    assert first["phase"] == "noise"
    assert ledger.started()["j"]["phase"] == "select"


def test_a_read_of_the_test_set_counts_once(ledger):
    assert ledger.test_reads() == []
    for key in ("a", "b", "a", "b"):
        ledger.test_read(key, f"winner {key}")
    assert [(row["key"], row["why"]) for row in ledger.test_reads()] == [("a", "winner a"), ("b", "winner b")]


def test_proposals_come_back_by_number_and_phases_by_name(ledger):
    for number in (10, 2, 123):
        ledger.write_proposal(number, {"params": {"tau": number / 100}, "key": f"k{number}", "name": "n"})
    assert list(ledger.proposals()) == [2, 10, 123]
    assert ledger.proposals()[10] == {"number": 10, "params": {"tau": 0.1}, "key": "k10", "name": "n"}
    assert ledger.phase("winner") is None
    ledger.write_phase("winner", {"name": "ce_etf"})
    assert ledger.phase("winner") == {"name": "ce_etf"}


def test_a_mended_cause_is_tried_again_and_a_divergence_is_not(ledger):
    study = make_study()
    ledger.open(study)
    causes = {"nan": False, "error": True, "memory": True, "config": True, "infrastructure": True}
    jobs = {cause: search_job(study, 0.1 + 0.1 * index) for index, cause in enumerate(causes)}
    for cause, job in jobs.items():
        ledger.start(job.key, {"phase": "select", "name": job.name, "seed": 0, "number": None})
        ledger.write_record(job.key, records.ended("failed", job.experiment, "why", cause, []))
    other = search_job(study, 0.9)
    ledger.start(other.key, {"phase": "search", "name": other.name, "seed": 0, "number": 0})
    ledger.write_record(other.key, records.ended("failed", other.experiment, "why", "error", []))
    assert set(ledger.forgive({"select"})) == {jobs[cause].key for cause, again in causes.items() if again}
    for cause, job in jobs.items():
        assert (ledger.record(job.key) is None) == causes[cause]
    assert ledger.record(other.key) is not None  # its proposal is replaced instead
    assert len(list(ledger.run_folder(jobs["error"].key).glob("failed-*.json"))) == 1  # nothing is lost
    assert ledger.forgive({"select"}) == []
